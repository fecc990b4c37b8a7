//! Which images there are, and what is in them.
//!
//! Start at [`TABLE`].

/// How one image is made.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The published names it stands in for.
    pub names: &'static [&'static str],
    /// What it really is, for people.
    pub stand_in: &'static str,
    /// Debian packages, and which of their paths are kept: those that begin with one of these. `TRIPLET` is replaced by
    /// the architecture's, such as `aarch64-linux-gnu`.
    pub packages: &'static [(&'static str, &'static [&'static str])],
    /// Files of our own: path, mode, text.
    pub files: &'static [(&'static str, u32, &'static str)],
    /// Symbolic links: path, target.
    pub links: &'static [(&'static str, &'static str)],
    /// Empty folders.
    pub folders: &'static [&'static str],
    /// What runs.
    pub command: &'static [&'static str],
    /// Whether `command` is the entrypoint (arguments follow it) instead of the default command.
    pub is_entrypoint: bool,
    /// The signal that ends it well, if not SIGTERM.
    pub stop_signal: &'static str,
}

const NONE: Recipe = Recipe {
    names: &[],
    stand_in: "",
    packages: &[],
    files: &[],
    links: &[],
    folders: &[],
    command: &["sh"],
    is_entrypoint: false,
    stop_signal: "",
};

const LIBC: (&str, &[&str]) = ("libc6", &["usr/lib/ld-linux", "usr/lib64/ld-linux", "usr/lib/TRIPLET/l"]);

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:101:nginx:/nonexistent:/bin/false\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nnginx:x:101:\nnogroup:x:65534:\n";

/// Debian's nginx reads this; it logs to the container's own streams.
const NGINX_CONF: &str = "\
user nginx;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    types { text/html html; text/css css; text/plain txt; application/json json; image/png png; }
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    include /etc/nginx/conf.d/*.conf;
}
";
const NGINX_DEFAULT: &str = "\
server {
    listen 80;
    location / { root /usr/share/nginx/html; index index.html; }
}
";
const NGINX_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head>\n\
                          <body><h1>Welcome to nginx!</h1><p>This is a test image.</p></body></html>\n";

/// Stands in for the documentation's probe examples: healthy for ten seconds, then not.
const AGNHOST: &str = r#"#!/bin/sh
# Answers like the subcommands of agnhost that the documentation's manifests use.
case "$1" in
liveness) date +%s >/tmp/begun; exec nc -ll -p 8080 -e /usr/bin/answer-liveness ;;
netexec) exec httpd -f -p 8080 -h /srv ;;
pause) exec sleep 2147483647 ;;
*) echo "this stand-in for agnhost does not know $1" >&2; exit 1 ;;
esac
"#;
const ANSWER_LIVENESS: &str = r#"#!/bin/sh
# One request on the standard streams: 200 for the first ten seconds, 500 after them.
while read -r line && [ "${#line}" -gt 1 ]; do :; done
age=$(($(date +%s) - $(cat /tmp/begun)))
if [ "$age" -lt 10 ]; then line='200 OK'; else line='500 Internal Server Error'; fi
printf 'HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n' "$line"
"#;

/// Debian's busybox has no `printenv`.
const PRINTENV: &str = r#"#!/usr/bin/awk -f
# Prints the variables that are named, or else all of them.
BEGIN {
    if (ARGC == 1) exit system("env")
    for (i = 1; i < ARGC; i++) if (ARGV[i] in ENVIRON) print ENVIRON[ARGV[i]]; else lacking = 1
    exit lacking
}
"#;

/// Stands in for etcd where the documentation probes it by gRPC.
const ETCD: &str = r#"#!/bin/sh
# Listens where etcd is told to, and answers health checks.
for word; do
    if [ "$before" = --listen-client-urls ]; then port=${word##*:}; fi
    before=$word
done
echo "answering gRPC health checks on port ${port:=2379}"
exec nc -ll -p "$port" -e /usr/local/bin/answer-health
"#;
const ANSWER_HEALTH: &str = r#"#!/bin/sh
# One HTTP/2 connection on the standard streams. The call that comes on stream 1 is answered as grpc.health.v1.Health/Check
# answers: a message that says SERVING, and a status that says OK.
bytes() { dd bs=1 count="$1" 2>/dev/null; }
bytes 24 >/dev/null                                     # the client's preface
printf '\0\0\0\4\0\0\0\0\0'                             # SETTINGS
while set -- $(bytes 9 | od -An -tu1) && [ $# -eq 9 ]; do
    bytes $(($1 * 65536 + $2 * 256 + $3)) >/dev/null
    case "$4 $(($5 & 1))" in
    '4 0') printf '\0\0\0\4\1\0\0\0\0' ;;               # SETTINGS: seen
    '0 1')                                              # DATA, the last: the call is here
        printf '\0\0\24\1\4\0\0\0\1\210\017\020\020application/grpc'
        printf '\0\0\7\0\0\0\0\0\1\0\0\0\0\2\10\1'
        printf '\0\0\17\1\5\0\0\0\1\0\013grpc-status\0010' ;;
    esac
done
"#;

/// Stands in for the log collector: prints what the node's containers write.
const COLLECTOR: &str = "\
#!/bin/sh
# Follows every container log of the node, as a log collector does.
echo 'collecting /var/log/containers'
while true; do
    set -- /var/log/containers/*.log
    if [ -e \"$1\" ]; then exec tail -n 0 -F \"$@\"; fi
    sleep 1
done
";

/// Every image there is.
pub const TABLE: &[Recipe] = &[
    Recipe {
        names: &[
            "docker.io/library/busybox:latest",
            "docker.io/library/busybox:1.28",
            "docker.io/library/busybox:1.36",
            "docker.io/library/busybox:1.37",
            "docker.io/library/alpine:latest",
            "docker.io/library/debian:latest",
            "registry.k8s.io/busybox:latest",
            "registry.k8s.io/busybox:1.27.2",
        ],
        stand_in: "Debian's static busybox",
        ..NONE
    },
    Recipe {
        names: &[
            "docker.io/library/nginx:latest",
            "docker.io/library/nginx:1.14.2",
            "docker.io/library/nginx:1.16.1",
            "docker.io/library/nginx:1.7.9",
            "docker.io/library/nginx:alpine",
            "registry.k8s.io/nginx-slim:0.7",
            "registry.k8s.io/nginx-slim:0.8",
            "registry.k8s.io/nginx-slim:0.21",
            "registry.k8s.io/nginx-slim:0.24",
        ],
        stand_in: "Debian's nginx 1.26",
        packages: &[
            ("nginx", &["usr/sbin/nginx"]),
            LIBC,
            ("libcrypt1", &["usr/lib/TRIPLET/"]),
            ("libpcre2-8-0", &["usr/lib/TRIPLET/"]),
            ("libssl3t64", &["usr/lib/TRIPLET/libssl", "usr/lib/TRIPLET/libcrypto"]),
            ("zlib1g", &["usr/lib/TRIPLET/"]),
            ("libzstd1", &["usr/lib/TRIPLET/"]),
        ],
        files: &[
            ("etc/nginx/nginx.conf", 0o644, NGINX_CONF),
            ("etc/nginx/conf.d/default.conf", 0o644, NGINX_DEFAULT),
            ("usr/share/nginx/html/index.html", 0o644, NGINX_PAGE),
        ],
        folders: &["run", "var/lib/nginx", "var/log/nginx", "usr/share/nginx/modules"],
        links: &[("var/log/nginx/access.log", "/dev/stdout"), ("var/log/nginx/error.log", "/dev/stderr")],
        command: &["nginx", "-g", "daemon off;"],
        stop_signal: "SIGQUIT",
        ..NONE
    },
    Recipe {
        names: &["docker.io/library/perl:latest", "docker.io/library/perl:5.34", "docker.io/library/perl:5.34.0"],
        stand_in: "Debian's perl 5.40 with the modules for large numbers",
        packages: &[
            ("perl-base", &["usr/bin/perl", "usr/lib/TRIPLET/perl-base/"]),
            (
                "perl-modules-5.40",
                &[
                    "usr/share/perl/5.40.1/Math/Big",
                    "usr/share/perl/5.40.1/big",
                    "usr/share/perl/5.40.1/overload",
                    "usr/share/perl/5.40.1/Carp",
                    "usr/share/perl/5.40.1/Tie/",
                ],
            ),
            LIBC,
            ("libcrypt1", &["usr/lib/TRIPLET/"]),
        ],
        links: &[("usr/share/perl/5.40", "5.40.1")],
        command: &["perl", "-de0"],
        ..NONE
    },
    Recipe {
        names: &[
            "registry.k8s.io/e2e-test-images/agnhost:2.40",
            "registry.k8s.io/e2e-test-images/agnhost:2.53",
            "registry.k8s.io/liveness:latest",
        ],
        stand_in: "a shell script on Debian's busybox that knows liveness, netexec and pause",
        files: &[
            ("agnhost", 0o755, AGNHOST),
            ("usr/bin/answer-liveness", 0o755, ANSWER_LIVENESS),
            ("srv/index.html", 0o644, "ok\n"),
        ],
        command: &["/agnhost"],
        is_entrypoint: true,
        ..NONE
    },
    Recipe {
        names: &["docker.io/library/bash:latest", "docker.io/library/bash:5"],
        stand_in: "Debian's bash 5.2 beside its busybox",
        packages: &[("bash", &["usr/bin/bash", "bin/bash"]), LIBC, ("libtinfo6", &["usr/lib/TRIPLET/"])],
        command: &["bash"],
        ..NONE
    },
    Recipe {
        names: &["docker.io/polinux/stress:latest"],
        stand_in: "Debian's stress 1.0",
        packages: &[("stress", &["usr/bin/stress"]), LIBC],
        command: &["stress"],
        ..NONE
    },
    Recipe {
        names: &["registry.k8s.io/etcd:3.5.1-0", "registry.k8s.io/etcd:3.6.4-0"],
        stand_in: "a shell script on Debian's busybox that answers gRPC health checks as etcd does, and nothing else",
        files: &[("usr/local/bin/etcd", 0o755, ETCD), ("usr/local/bin/answer-health", 0o755, ANSWER_HEALTH)],
        command: &["/usr/local/bin/etcd"],
        ..NONE
    },
    Recipe {
        names: &[
            "quay.io/fluentd_elasticsearch/fluentd:v5.0.1",
            "quay.io/fluentd_elasticsearch/fluentd:v2.5.2",
            "docker.io/fluent/fluentd:latest",
        ],
        stand_in: "a shell script on Debian's busybox that follows /var/log/containers",
        files: &[("usr/bin/collector", 0o755, COLLECTOR)],
        command: &["/bin/collector"],
        ..NONE
    },
    Recipe {
        names: &["registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.1"],
        stand_in: "Debian's busybox asleep",
        command: &["sleep", "2147483647"],
        is_entrypoint: true,
        ..NONE
    },
    Recipe {
        names: &["registry.k8s.io/test-webserver:latest", "registry.k8s.io/goproxy:0.1"],
        stand_in: "Debian's busybox serving /test-webserver by HTTP on ports 80 and 8080",
        folders: &["test-webserver"],
        command: &["sh", "-c", "httpd -p 8080 -h /test-webserver; exec httpd -f -p 80 -h /test-webserver"],
        is_entrypoint: true,
        ..NONE
    },
];

/// What every image has: the shell and its tools, and somebody to be.
pub(crate) const BASE: Recipe = Recipe {
    packages: &[("busybox-static", &["usr/bin/busybox"])],
    links: &[("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin"), ("sbin", "usr/sbin")],
    files: &[
        ("etc/passwd", 0o644, PASSWD),
        ("etc/group", 0o644, GROUP),
        ("usr/bin/bash", 0o755, "#!/bin/sh\nexec /bin/sh \"$@\"\n"),
        ("usr/bin/printenv", 0o755, PRINTENV),
    ],
    folders: &["tmp", "root", "home", "var", "var/log", "usr/lib", "usr/lib64", "usr/sbin"],
    ..NONE
};

/// The tools that busybox is linked under: those of Debian's static build that make sense in a container.
pub(crate) const TOOLS: &str = "\
    [ [[ ar arch ascii ash awk base64 basename bc bunzip2 bzcat bzip2 cal cat chgrp chmod chown chroot clear cmp cp cpio \
    crc32 cut date dc dd df diff dirname dnsdomainname dos2unix du echo ed egrep env expand expr factor fallocate false \
    fgrep find fold free getopt grep groups gunzip gzip head hexdump hostid hostname httpd id ifconfig install ip \
    ipcalc kill killall last less link ln logger logname ls lzcat lzma md5sum microcom mkdir mkfifo mknod mktemp more \
    mount mv nc netstat nice nl nohup nproc nslookup od paste patch pidof ping ping6 printf ps pwd readlink realpath \
    renice reset rev rm rmdir route run-parts sed seq setpriv setsid sh sha1sum sha256sum sha3sum sha512sum shred shuf \
    sleep sort stat strings stty su sync sysctl tac tail tar taskset tee telnet test tftp time timeout top touch tr \
    traceroute true truncate tty umount uname uncompress unexpand uniq unix2dos unlink unlzma unxz unzip uptime usleep \
    uudecode uuencode vi watch wc wget which who whoami xargs xxd xz xzcat yes zcat";

/// All recipes as text: where it differs, images do.
pub fn recipes() -> String {
    format!("{BASE:?}\n{TOOLS}\n{TABLE:?}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_stands_for_one_image() {
        let all: Vec<&str> = TABLE.iter().flat_map(|recipe| recipe.names).copied().collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn names_are_whole() {
        for name in TABLE.iter().flat_map(|recipe| recipe.names) {
            let (path, tag) = name.rsplit_once(':').expect("a tag");
            assert!(path.split('/').count() >= 2 && path.contains('.') && !tag.is_empty(), "{name}");
        }
    }

    #[test]
    fn every_recipe_says_what_it_stands_for_and_what_runs() {
        assert!(TABLE.iter().all(|recipe| !recipe.stand_in.is_empty() && !recipe.command.is_empty()));
    }
}
