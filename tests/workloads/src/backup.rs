//! The CronJob of `cluster/skerry/manifests/backup.yaml`, changed as its comments say.
//!
//! Start at [`with_volume`].

/// The manifest of the CronJob, with one more volume in the backup: the node's `folder`, known by the path `name`.
///
/// # Panics
///
/// Where the manifest is not what it was.
pub fn with_volume(manifest: &str, name: &str, folder: &str) -> String {
    let more = [
        ("            - --keep=14\n", format!("            - --volume={name}\n")),
        ("            volumeMounts:\n", format!("            - {{name: more, mountPath: {name}, readOnly: true}}\n")),
        (
            "          volumes:\n",
            format!("          - {{name: more, hostPath: {{path: {folder}, type: DirectoryOrCreate}}}}\n"),
        ),
    ];
    more.iter().fold(manifest.to_owned(), |text, (behind, line)| {
        assert_eq!(text.matches(behind).count(), 1, "{behind:?} in the manifest");
        text.replace(behind, &format!("{behind}{line}"))
    })
}
