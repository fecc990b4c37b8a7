//! Users and groups as an image knows them.
//!
//! Start at [`look_up`]; the pure part is [`resolve`].

use std::fs;

/// Who a process is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// More groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks `user` up in `/etc/passwd` and `/etc/group`, which may be missing.
pub(crate) fn look_up(user: &str, group: Option<u32>, more_groups: &[u32]) -> Result<User, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut found = resolve(user, &read("/etc/passwd"), &read("/etc/group"))?;
    found.gid = group.unwrap_or(found.gid);
    found.groups.extend(more_groups);
    found.groups.sort_unstable();
    found.groups.dedup();
    Ok(found)
}

/// `user` is `name`, `uid`, `name:group` or `uid:gid`; empty is root. Without a group, the user's groups are those of the
/// files; a number without an entry has group 0.
pub(crate) fn resolve(user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        let uid = fields.get(2).and_then(|uid| uid.parse::<u32>().ok());
        fields.len() >= 6 && (fields[0] == name || (number.is_some() && uid == number))
    });
    let field = |at: usize| entry.as_ref().and_then(|fields| fields.get(at)).copied();
    let numeric = |at: usize| field(at).and_then(|text| text.parse::<u32>().ok());
    let uid = numeric(2)
        .or(number)
        .ok_or_else(|| format!("unable to find user {name}: no matching entries in passwd file"))?;
    let mut groups = Vec::new();
    let gid = match group_name.filter(|group| !group.is_empty()) {
        Some(wanted) => group_number(wanted, group)?,
        None => {
            if let Some(own_name) = field(0) {
                groups = groups_of(own_name, group);
            }
            numeric(3).unwrap_or(0)
        }
    };
    let home = field(5).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(User { uid, gid, groups, home })
}

fn group_number(wanted: &str, group: &str) -> Result<u32, String> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted)).then(|| fields.nth(1)?.parse().ok())?
    });
    let missing = || format!("unable to find group {wanted}: no matching entries in group file");
    named.or(wanted.parse().ok()).ok_or_else(missing)
}

/// The groups that name this user as a member.
fn groups_of(user: &str, group: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_member = fields.get(3)?.split(',').any(|member| member == user);
            is_member.then(|| fields[2].parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nssl:x:40:web,other\n";

    #[track_caller]
    fn check(user: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let found = resolve(user, PASSWD, GROUP);
        let found = found.as_ref().map(|user| (user.uid, user.gid, &user.groups[..], user.home.as_str()));
        assert_eq!(found.map_err(|error| error.as_str()), expected);
    }

    #[test]
    fn users_have_names_and_numbers() {
        check("", Ok((0, 0, &[], "/root")));
        check("web", Ok((33, 34, &[40], "/var/www")));
        check("33", Ok((33, 34, &[40], "/var/www")));
        check("1000", Ok((1000, 0, &[], "/")));
        check("1000:2000", Ok((1000, 2000, &[], "/")));
        check("web:ssl", Ok((33, 40, &[], "/var/www")));
    }

    #[test]
    fn unknown_names_are_told() {
        check("nobody", Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:nogroup", Err("unable to find group nogroup: no matching entries in group file"));
    }

    #[test]
    fn an_image_without_files_has_numbers_only() {
        assert_eq!(resolve("7", "", "").map(|user| (user.uid, user.gid)), Ok((7, 0)));
        assert!(resolve("web", "", "").is_err());
    }
}
