//! Clients that write one object after the other, and whether what is restored of them is a prefix.
//!
//! Start at [`prefix`]. A client writes its next object as soon as it was told that the last one is there, so what each was told
//! before and after a backup says what may be in it.
//!
//! Not here: how clients write, and what is restored of what.

/// The name of a client's object of this number.
pub fn name(client: usize, number: usize) -> String {
    format!("client-{client}-{number}")
}

/// Whether the objects that are there are, of each client, all that was acknowledged `before`, without a gap, and nothing that it
/// had not sent by `after`. How many they are; what is wrong first otherwise. `listed` is what `kubectl get -o name` says.
pub fn prefix(listed: &str, before: &[usize], after: &[usize]) -> Result<usize, String> {
    let mut numbers = vec![Vec::new(); before.len()];
    for name in listed.lines().filter_map(|line| line.trim().split_once("/client-").map(|(_, name)| name)) {
        let parsed =
            name.split_once('-').and_then(|(client, number)| Some((client.parse().ok()?, number.parse().ok()?)));
        let (client, number): (usize, usize) = parsed.ok_or_else(|| format!("{name:?} is of no client"))?;
        numbers.get_mut(client).ok_or_else(|| format!("there is no client {client}"))?.push(number);
    }
    for (client, numbers) in numbers.iter_mut().enumerate() {
        numbers.sort_unstable();
        let count = numbers.len();
        if !numbers.iter().copied().eq(0..count) {
            return Err(format!("client {client} has gaps: {numbers:?}"));
        }
        // One more may be there: written before the backup was done, and told of afterwards.
        let (before, after) = (before[client], after[client] + 1);
        if !(before..=after).contains(&count) {
            return Err(format!("client {client}: {before} were acknowledged, {count} are there, {after} sent"));
        }
    }
    Ok(numbers.iter().map(Vec::len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One client that was told of two before and of three after.
    #[track_caller]
    fn check(there: &[usize], wrong: &str) {
        let listed: String = there.iter().map(|number| format!("configmap/{}\n", name(0, *number))).collect();
        let listed = format!("{listed}configmap/kube-root-ca.crt\n");
        assert_eq!(prefix(&listed, &[2], &[3]).err().unwrap_or_default(), wrong, "{there:?}");
    }

    #[test]
    fn what_was_acknowledged_before_is_there_and_nothing_that_was_not_sent() {
        check(&[0, 1], "");
        check(&[2, 0, 1], "");
        check(&[0, 1, 2, 3], "");
        check(&[0], "client 0: 2 were acknowledged, 1 are there, 4 sent");
        check(&[0, 1, 2, 3, 4], "client 0: 2 were acknowledged, 5 are there, 4 sent");
        check(&[0, 2], "client 0 has gaps: [0, 2]");
    }

    #[test]
    fn strangers_are_named() {
        assert_eq!(prefix("configmap/client-1-0\n", &[0], &[0]), Err("there is no client 1".to_owned()));
        assert_eq!(prefix("configmap/client-x\n", &[0], &[0]), Err("\"x\" is of no client".to_owned()));
    }
}
