//! Images in one file: an OCI image layout in a tar archive.
//!
//! Start at [`write_archive`]. Layers that several images share are in it once.
//!
//! See <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image before it has digests.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its names.
    pub names: Vec<String>,
    /// Its layers, the lowest first, as tar archives.
    pub layers: Vec<Vec<u8>>,
    /// The `config` of its configuration: command, environment.
    pub config: Value,
    /// `arm64` or `amd64`.
    pub architecture: String,
}

/// The archive could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the archive of images")]
pub struct ArchiveError(#[from] io::Error);

/// Writes all images as one archive.
pub fn write_archive(images: &[Image], out: impl Write) -> Result<(), ArchiveError> {
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    for image in images {
        let manifest = blobs.add_image(image)?;
        for name in &image.names {
            let mut named = manifest.clone();
            named["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
            named["platform"] = json!({"architecture": image.architecture, "os": "linux"});
            manifests.push(named);
        }
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    });
    let mut archive = tar::Builder::new(out);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", index.to_string().as_bytes())?;
    for (digest, bytes) in &blobs.0 {
        append(&mut archive, &format!("blobs/sha256/{digest}"), bytes)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Blobs by digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Puts a blob in; the answer is its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }

    /// Puts an image in; the answer is its manifest's descriptor.
    fn add_image(&mut self, image: &Image) -> io::Result<Value> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &image.layers {
            diff_ids.push(format!("sha256:{}", sha256(layer)));
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(layer)?;
            layers.push(self.add("application/vnd.oci.image.layer.v1.tar+gzip", packed.finish()?));
        }
        let config = json!({
            "created": "1970-01-01T00:00:00Z", "architecture": image.architecture, "os": "linux",
            "config": image.config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        Ok(self.add(media_type, manifest.to_string().into_bytes()))
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing to a String cannot fail.
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_layer_is_there_once() {
        let image = |name: &str| Image {
            names: vec![name.to_owned()],
            layers: vec![b"shared".to_vec(), name.as_bytes().to_vec()],
            config: json!({}),
            architecture: "arm64".into(),
        };
        let mut bytes = Vec::new();
        write_archive(&[image("a"), image("b")], &mut bytes).expect("written");
        let mut archive = tar::Archive::new(bytes.as_slice());
        // Two files of the layout, three layers, two configurations, two manifests.
        assert_eq!(archive.entries().expect("entries").count(), 2 + 3 + 2 + 2);
    }
}
