//! The folder where a cluster's keys lie.
//!
//! Start at [`Pki::open`].
//!
//! Invariants:
//! * a file is complete or absent: it is written beside its place and moved there;
//! * an authority or the token key is made once and never replaced here; all else is renewed when a third of its life
//!   is left, or when it does not name what it must.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;

use crate::authority::{CERTIFICATE_LIFE, new_key};
use crate::{Authority, Pair, PkiError, Purpose, Subject, TokenKey, der_of_pem, presented};

/// The service network's first address: the API server, seen from pods.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 0, 1));

/// Under which names and addresses this machine's API server is reached, beyond those every API server has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Such as the machine's hostname.
    pub dns: Vec<String>,
    /// Such as the machine's addresses.
    pub addresses: Vec<IpAddr>,
}

/// The keys of a cluster.
pub struct Pki {
    folder: PathBuf,
    authority: Authority,
    front_proxy: Authority,
    tokens: Arc<TokenKey>,
    serving: Pair,
    admin: Pair,
    kubelet_client: Pair,
    life: Duration,
}

impl Pki {
    /// Loads the keys of a folder; makes it and them where they are missing or near their end.
    pub fn open(folder: &Path, names: &Names, now: Timestamp) -> Result<Pki, PkiError> {
        Pki::open_lasting(folder, names, CERTIFICATE_LIFE, now)
    }

    /// The same with certificates that last so long from their making.
    pub fn open_lasting(folder: &Path, names: &Names, life: Duration, now: Timestamp) -> Result<Pki, PkiError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(|source| PkiError::Write { path: folder.to_owned(), source })?;
        let authority = load_or_make_authority(folder, "ca", "skerry-ca", now)?;
        let front_proxy = load_or_make_authority(folder, "front-proxy-ca", "skerry-front-proxy-ca", now)?;
        let tokens = Arc::new(load_or_make_token_key(folder)?);
        let issuing = Issuing { folder, authority: &authority, life, now };
        let serving = issuing.renewed("apiserver", &serving_subject(names), &[Purpose::Server])?;
        let client = |file: &str, subject: &Subject| issuing.renewed(file, subject, &[Purpose::Client]);
        let admin = client("admin", &client_subject("kubernetes-admin", "system:masters"))?;
        let kubelet_client =
            client("apiserver-kubelet-client", &client_subject("kube-apiserver-kubelet-client", "system:masters"))?;
        let folder = folder.to_owned();
        Ok(Pki { folder, authority, front_proxy, tokens, serving, admin, kubelet_client, life })
    }

    /// How long certificates last.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// When one of these certificates is to be renewed, by opening the folder again.
    pub fn due(&self, others: &[&Pair]) -> Timestamp {
        let own = [&self.serving, &self.admin, &self.kubelet_client];
        let all = own.into_iter().chain(others.iter().copied());
        all.map(|pair| due(pair, self.life)).min().unwrap_or_default()
    }

    /// The cluster's authority: signs servers and clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority of those who speak for others (aggregated API servers trust it).
    pub fn front_proxy(&self) -> &Authority {
        &self.front_proxy
    }

    /// The key of ServiceAccount tokens.
    pub fn tokens(&self) -> &Arc<TokenKey> {
        &self.tokens
    }

    /// What the API server serves with.
    pub fn serving(&self) -> &Pair {
        &self.serving
    }

    /// The cluster's administrator.
    pub fn admin(&self) -> &Pair {
        &self.admin
    }

    /// What the API server shows kubelets.
    pub fn kubelet_client(&self) -> &Pair {
        &self.kubelet_client
    }

    /// What a node's kubelet serves with.
    pub fn kubelet_serving(&self, node: &str, names: &Names, now: Timestamp) -> Result<Pair, PkiError> {
        let mut subject = client_subject(&format!("system:node:{node}"), "system:nodes");
        subject.dns = names.dns.clone();
        subject.dns.push(node.to_owned());
        subject.addresses = names.addresses.clone();
        clean(&mut subject);
        self.issuing(now).renewed(&format!("kubelet-serving-{node}"), &subject, &[Purpose::Server])
    }

    /// What a node's kubelet shows the API server.
    pub fn kubelet_identity(&self, node: &str, now: Timestamp) -> Result<Pair, PkiError> {
        let subject = client_subject(&format!("system:node:{node}"), "system:nodes");
        self.issuing(now).renewed(&format!("kubelet-{node}"), &subject, &[Purpose::Client])
    }

    /// A client's certificate; nothing is kept.
    pub fn client(&self, user: &str, group: Option<&str>, now: Timestamp) -> Result<Pair, PkiError> {
        let subject = Subject { name: user.to_owned(), group: group.map(str::to_owned), ..Subject::default() };
        self.authority.issue(&subject, &[Purpose::Client], self.life, now)
    }

    fn issuing(&self, now: Timestamp) -> Issuing<'_> {
        Issuing { folder: &self.folder, authority: &self.authority, life: self.life, now }
    }
}

/// Certificates of one authority, in one folder, at one time.
struct Issuing<'a> {
    folder: &'a Path,
    authority: &'a Authority,
    life: Duration,
    now: Timestamp,
}

/// Writes a file that only its owner may read, complete or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::Write { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    // A file left over by a crash keeps its own mode otherwise.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

fn client_subject(user: &str, group: &str) -> Subject {
    Subject { name: user.to_owned(), group: Some(group.to_owned()), ..Subject::default() }
}

fn serving_subject(names: &Names) -> Subject {
    let service =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let mut subject = Subject { name: "kube-apiserver".to_owned(), ..Subject::default() };
    subject.dns = service.into_iter().chain(["localhost"]).map(str::to_owned).collect();
    subject.dns.extend(names.dns.iter().cloned());
    subject.addresses = vec![SERVICE_ADDRESS, IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    subject.addresses.extend(&names.addresses);
    clean(&mut subject);
    subject
}

/// In one order and once each, so that the same names are the same subject.
fn clean(subject: &mut Subject) {
    subject.dns.sort();
    subject.dns.dedup();
    subject.addresses.sort();
    subject.addresses.dedup();
}

fn load_or_make_authority(folder: &Path, file: &str, name: &str, now: Timestamp) -> Result<Authority, PkiError> {
    let pair = match load(folder, file)? {
        Some(pair) => pair,
        None => {
            let pair = Authority::make(name, now)?;
            keep(folder, file, &pair)?;
            pair
        }
    };
    Authority::load(&pair)
}

fn load_or_make_token_key(folder: &Path) -> Result<TokenKey, PkiError> {
    let path = folder.join("service-account.key");
    let pem = match read(&path)? {
        Some(pem) => pem,
        None => {
            let pem = new_key("service accounts")?.serialize_pem();
            write_private(&path, &pem)?;
            pem
        }
    };
    TokenKey::load(&pem)
}

impl Issuing<'_> {
    /// The certificate in that file, or a new one in its place if it is near its end or for somebody else.
    fn renewed(&self, file: &str, subject: &Subject, purposes: &[Purpose]) -> Result<Pair, PkiError> {
        let Issuing { folder, authority, life, now } = *self;
        // The subject as text lies beside the certificate; comparing it is simpler than reading names out of X.509.
        let says = format!("{subject:?} of {}", authority.certificate_pem());
        let subject_path = folder.join(format!("{file}.subject"));
        if let (Some(pair), Some(said)) = (load(folder, file)?, read(&subject_path)?)
            && said == says
            && is_fresh(&pair, life, now)
        {
            return Ok(pair);
        }
        let pair = authority.issue(subject, purposes, life, now)?;
        keep(folder, file, &pair)?;
        write_private(&subject_path, &says)?;
        Ok(pair)
    }
}

fn is_fresh(pair: &Pair, life: Duration, now: Timestamp) -> bool {
    let seen = der_of_pem(&pair.certificate_pem).and_then(|der| presented(&der));
    seen.is_some_and(|seen| seen.not_before <= now.seconds()) && now < due(pair, life)
}

/// When a third of a certificate's life is left; long ago if it is none.
fn due(pair: &Pair, life: Duration) -> Timestamp {
    let seen = der_of_pem(&pair.certificate_pem).and_then(|der| presented(&der));
    let end = seen.map(|seen| Timestamp::from_seconds(seen.not_after));
    end.map_or(Timestamp::from_seconds(0), |end| Timestamp(end.0 - (life / 3).as_nanos() as i128))
}

fn load(folder: &Path, file: &str) -> Result<Option<Pair>, PkiError> {
    let certificate = read(&folder.join(format!("{file}.crt")))?;
    let key = read(&folder.join(format!("{file}.key")))?;
    Ok(certificate.zip(key).map(|(certificate_pem, key_pem)| Pair { certificate_pem, key_pem }))
}

fn keep(folder: &Path, file: &str, pair: &Pair) -> Result<(), PkiError> {
    write_private(&folder.join(format!("{file}.key")), &pair.key_pem)?;
    write_private(&folder.join(format!("{file}.crt")), &pair.certificate_pem)
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn open(folder: &Path, names: &Names, now: Timestamp) -> Pki {
        Pki::open(folder, names, now).expect("the folder opens")
    }

    #[test]
    fn keys_survive_and_are_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = open(folder.path(), &Names::default(), NOW);
        let again = open(folder.path(), &Names::default(), NOW);
        assert_eq!(first.authority().certificate_pem(), again.authority().certificate_pem());
        assert_eq!(first.serving(), again.serving());
        for file in fs::read_dir(folder.path()).expect("files") {
            let file = file.expect("a file");
            assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }

    #[test]
    fn what_ages_is_renewed_under_the_same_authority() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = open(folder.path(), &Names::default(), NOW);
        let later = open(folder.path(), &Names::default(), NOW.plus(CERTIFICATE_LIFE * 3 / 4));
        assert_eq!(first.authority().certificate_pem(), later.authority().certificate_pem());
        assert_ne!(first.serving(), later.serving());
    }

    #[test]
    fn certificates_last_as_long_as_they_are_to() {
        let (folder, life) = (tempfile::tempdir().expect("a folder"), Duration::from_secs(30));
        let at = |now| Pki::open_lasting(folder.path(), &Names::default(), life, now).expect("the folder opens");
        let first = at(NOW);
        assert_eq!(first.due(&[]), NOW.plus(Duration::from_secs(20)));
        assert_eq!(at(NOW.plus(Duration::from_secs(19))).serving(), first.serving());
        let later = at(NOW.plus(Duration::from_secs(20)));
        assert_ne!(later.serving(), first.serving());
        let client = later.client("somebody", None, NOW).expect("a certificate");
        assert_eq!(later.due(&[&client]), NOW.plus(Duration::from_secs(20)));
    }

    #[test]
    fn a_new_address_means_a_new_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = open(folder.path(), &Names::default(), NOW);
        let names = Names { addresses: vec![IpAddr::from([10, 0, 0, 7])], ..Names::default() };
        let moved = open(folder.path(), &names, NOW);
        assert_ne!(first.serving(), moved.serving());
        assert_eq!(first.admin(), moved.admin());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = Pki::open(Path::new("/proc/none/pki"), &Names::default(), NOW).err().expect("no folder");
        assert_eq!(error.to_string(), "failed to write /proc/none/pki");
    }
}
