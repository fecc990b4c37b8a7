//! A real NFS server for boards under test: Debian's nfs-ganesha, unpacked into the build folder and not installed.
//!
//! Start at [`Server::start`]. It has network, mounts and processes of its own, and keeps what it exports in memory there, so
//! that nothing of this machine is exported; boards reach it through QEMU's own network. Needs root.
//!
//! Invariants:
//! * it ends with the value, and with the program that holds it, however that ends;
//! * what it exports outlives the server's death, as a disk does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use image::Tree;
use image::shell::{run, tool};

/// The export, of versions 3 and 4.
pub const EXPORT: &str = "/srv";
/// A pod that names its export itself.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: looks
    image: busybox:1.28
    command: [sleep, '1000000']
    volumeMounts: [{name: nfs, mountPath: /mnt}]
  volumes:
  - name: nfs
    nfs: {server: SERVER, path: PATH}
";

const PORT: u16 = 2049;
const PACKAGES: [&str; 3] = ["nfs-ganesha", "nfs-ganesha-vfs", "rpcbind"];
/// It reads its configuration and looks around; emulated boards may keep both processors busy.
const UP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between this machine and the server: a net of its own for each server, of those set aside for tests of networks.
const NETS: [u8; 2] = [198, 18];

/// What runs inside: it has a network, looks like a machine on which the packages are installed, and does as it is told by its
/// input. When that ends, so do this shell and all processes of its namespace.
const INSIDE: &str = r#"
set -e
root=$1 config=$2 log=$3 address=$4
mkdir -p "$root/usr" "$root/etc"
mount -t overlay overlay -o "lowerdir=$root/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$root/etc:/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/rpcbind /run/ganesha
(cat /etc/passwd; echo _rpc:x:65533:65534::/run/rpcbind:/usr/sbin/nologin) >/run/passwd
mount --bind /run/passwd /etc/passwd
mount -t tmpfs -o mode=777 tmpfs /srv
PATH=$root/sbin:$PATH
LD_LIBRARY_PATH=/usr/lib/ganesha:$(echo "$root"/lib/*-linux-gnu)
export PATH LD_LIBRARY_PATH
while read -r order; do
    case $order in
    link) ip link set lo up; ip address add "$address" dev eth0; ip link set eth0 up; rpcbind -w -f >>"$log" 2>&1 & ;;
    start) ganesha.nfsd -F -L "$log" -f "$config" -p /run/server.pid -N EVENT >>"$log" 2>&1 & server=$! ;;
    kill) kill -9 $server; wait $server || true ;;
    freeze) kill -STOP $server ;;
    thaw) kill -CONT $server ;;
    esac
    echo done
done
"#;

/// What the server is told. It forgives clients that it has forgotten for a few seconds only, so that nobody waits long. It speaks
/// 4.2, as it does where nobody says otherwise, and so badly that who reads by that sees zeros: nobody here should.
const CONFIG: &str = "
NFS_CORE_PARAM { Protocols = 3, 4; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Minor_Versions = 0, 1, 2; RecoveryRoot = /run/ganesha; Lease_Lifetime = 10; Grace_Period = 10; Only_Numeric_Owners = true; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT {
    Export_Id = 1; Path = /srv; Pseudo = /srv; Protocols = 3, 4; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
    FSAL { Name = VFS; }
}
";

/// A pod whose export the server does not have, and what its Event says.
pub struct NoExport {
    /// The manifest of a pod `wrong`.
    pub pod: String,
    /// What stands in the Event.
    pub told: String,
}

/// A server.
pub struct Server {
    inside: Child,
    answers: Lines<BufReader<ChildStdout>>,
    address: Ipv4Addr,
    log: PathBuf,
}

impl Server {
    /// Unpacks what is not unpacked, starts it, and waits until it answers.
    pub fn start(name: &str) -> Server {
        let tree = Tree::ours();
        image::host::prepare(&tree).expect("the tools are there");
        let root = image::host::unpacked(&tree, "nfs-server", &PACKAGES).expect("the server's packages are unpacked");
        let folder = tree.build.join("machines").join(name);
        fs::create_dir_all(&folder).expect("a folder for the server");
        let (config, log) = (folder.join("ganesha.conf"), folder.join("log"));
        fs::write(&config, CONFIG).expect("the configuration is written");
        File::create(&log).expect("an empty log");
        let [ours, address] = addresses(std::process::id());
        let mut inside = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "sh", "-c", INSIDE, "nfs-server"])
            .args([&root, &config, &log])
            .arg(format!("{address}/30"))
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("root may unshare");
        let answers = BufReader::new(inside.stdout.take().expect("it is piped")).lines();
        let mut server = Server { inside, answers, address, log };
        // It has its network when it takes orders.
        server.order("hello");
        let link = format!("nfs{}", std::process::id());
        let holder = server.inside.id().to_string();
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &holder]);
        ip(&["address", "add", &format!("{ours}/30"), "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        server.order("link");
        server.restart();
        server
    }

    /// Where boards find it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Starts the server that was killed, and waits until it answers.
    pub fn restart(&mut self) {
        self.order("start");
        let began = Instant::now();
        let address = SocketAddr::from((self.address, PORT));
        while TcpStream::connect_timeout(&address, LOOK_EVERY).is_err() {
            assert!(began.elapsed() < UP_WITHIN, "no NFS server within {UP_WITHIN:?}\n{}", self.log());
            sleep(LOOK_EVERY);
        }
    }

    /// Ends the server without a warning: from now on connections are refused.
    pub fn kill(&mut self) {
        self.order("kill");
    }

    /// Makes it hang, or go on: one that hangs refuses nothing and answers nothing.
    pub fn hang(&mut self, hangs: bool) {
        self.order(if hangs { "freeze" } else { "thaw" });
    }

    /// A file of the export, as the server has it.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{EXPORT}/{path}", self.inside.id()))
    }

    /// The manifest of a pod that mounts `path` at `/mnt` without a claim.
    pub fn pod(&self, name: &str, path: &str) -> String {
        POD.replace("NAME", name).replace("SERVER", &self.address()).replace("PATH", path)
    }

    /// One that mounts what is not there.
    pub fn none(&self) -> NoExport {
        let path = format!("{EXPORT}/none");
        let told = format!("mount failed: {}:{path}: the server has no such export or directory", self.address());
        NoExport { pod: self.pod("wrong", &path), told }
    }

    fn order(&mut self, order: &str) {
        let told = self.inside.stdin.as_mut().map(|orders| orders.write_all(format!("{order}\n").as_bytes()));
        let answer = self.answers.next();
        let done = matches!(told, Some(Ok(()))) && matches!(answer, Some(Ok(_)));
        assert!(done, "the NFS server does not take the order to {order}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its input ends, and with it everything inside.
        drop(self.inside.stdin.take());
        let _ended = self.inside.wait();
    }
}

/// The words that list a pod's Events of mounts that failed.
pub fn failed_mounts(pod: &str) -> String {
    format!("get events --field-selector=involvedObject.name={pod},reason=FailedMount")
}

/// How many numbers a writer wrote to a file, one a line: all from 1 on, each once and in order. The error is where that ends.
pub fn numbers(file: &Path) -> Result<usize, String> {
    in_order(&fs::read_to_string(file).map_err(|error| format!("no numbers: {error}"))?).map(|all| all.len())
}

fn in_order(text: &str) -> Result<Vec<u64>, String> {
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let check = |(wanted, line): (u64, &str)| match line.parse() {
        Ok(number) if number == wanted => Ok(number),
        _ => Err(format!("{line:?} stands where {wanted} should")),
    };
    (1..).zip(whole.lines()).map(check).collect()
}

/// This machine's address and the server's, in a net of four addresses that no other process's server has.
fn addresses(process: u32) -> [Ipv4Addr; 2] {
    let net = u16::try_from(process % (1 << 14)).expect("it fits") << 2;
    let [high, low] = net.to_be_bytes();
    [1, 2].map(|host| Ipv4Addr::new(NETS[0], NETS[1], high, low | host))
}

fn ip(words: &[&str]) {
    run(tool("ip").args(words)).expect("root may make links");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_once_and_in_order() {
        assert_eq!(in_order("1\n2\n3\n4"), Ok(vec![1, 2, 3]));
        assert_eq!(in_order(""), Ok(vec![]));
        assert_eq!(in_order("1\n1\n"), Err("\"1\" stands where 2 should".to_owned()));
        assert_eq!(in_order("1\n3\n"), Err("\"3\" stands where 2 should".to_owned()));
        assert_eq!(in_order("1\n\0\0\n3\n"), Err("\"\\0\\0\" stands where 2 should".to_owned()));
    }

    #[test]
    fn each_process_has_a_net_of_its_own() {
        let text = |process| addresses(process).map(|address| address.to_string());
        assert_eq!(text(1), ["198.18.0.5", "198.18.0.6"]);
        assert_eq!(text(16_383), ["198.18.255.253", "198.18.255.254"]);
        assert_eq!(text(16_384), ["198.18.0.1", "198.18.0.2"]);
    }
}
