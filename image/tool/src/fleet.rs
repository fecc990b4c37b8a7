//! Several boards in QEMU: a server and its agents, each from a card flashed for it, with a cable between them.
//!
//! Start at [`up`]. Each board has two network cards: the first leads to the world by QEMU's own network, as that of a single
//! one does; the second is the cable, where everybody has an address of their own from the settings on their card.
//!
//! Not here: a single board (`up`), what a card holds (`flash`).

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::Instant;

use board::Board;
use settings::{Network, Role, Server, Settings};

use crate::build::Image;
use crate::error::{Doing, Result, wrong};
use crate::flash::{Brought, flash, new_token};
use crate::layout::SECTOR;
use crate::qemu::{Files, Lan, Machine, Way, Wires, command_line};
use crate::shell::{run, tool};
use crate::up::{
    LOOK_EVERY, Place, READY_WITHIN, Wanted, boot_number, copy_without_data, free_port, handed_out, known_port,
    kubectl, last_lines, ready_node, repeat_console, shown, tell, write_kubeconfig,
};
use crate::{Tree, host};

/// Every board has as long as one alone: they share the machine's processors.
const TIMES_AS_LONG: u32 = 3;
/// The net on the cable; a board's number is the last byte.
const NET: [u8; 3] = [10, 77, 0];
const PREFIX: u8 = 24;
/// The second network card, as the kernel names it.
const CABLE: &str = "eth1";
/// A cable's number is the API's port and this: as unique as that, and out of others' way.
const CABLE_NUMBER: u16 = 20_000;

/// Flashes what is not flashed, boots all, and waits until every node is ready.
pub fn up(tree: &Tree, board: &Board, image: &Image, wanted: &Wanted, kubeconfig: &Path, began: Instant) -> Result<()> {
    let places = places(tree, board, wanted.boards);
    let token = token(tree, board)?;
    for (number, place) in (1..).zip(&places) {
        put(tree, board, image, place, &settings::file(&settings(number, &token)), wanted.fresh)?;
    }
    tell(began, &format!("{} cards are flashed", places.len()));
    let port = start(board, image, &places, wanted)?;
    tell(
        began,
        &format!("{} machines run; the console of the first is {}", places.len(), shown(&places[0].files.console)),
    );
    wait(&places, port, kubeconfig, began)
}

/// The places of the first `count` boards of a cable; for all there are, no more than were ever made.
pub fn places(tree: &Tree, board: &Board, count: u8) -> Vec<Place> {
    places_named(tree, &board.name, count)
}

/// The same, where the cable has a name of its own.
pub fn places_named(tree: &Tree, name: &str, count: u8) -> Vec<Place> {
    let place = |number: u8| Place::named(tree, &format!("{name}-{number}"));
    let all = (1..=count).map(place);
    if count == u8::MAX { all.take_while(|place| place.files.disk.exists()).collect() } else { all.collect() }
}

/// What the board of this number is told by its card: the first is the server.
pub fn settings(number: u8, token: &str) -> Settings {
    let address = |number: u8| [NET[0], NET[1], NET[2], number].into();
    let is_server = number == 1;
    Settings {
        hostname: Some(format!("skerry-{number}")),
        role: if is_server { Role::Server } else { Role::Agent },
        server: (!is_server)
            .then(|| Server { host: format!("{}.{}.{}.1", NET[0], NET[1], NET[2]), port: settings::PORT }),
        token: Some(token.to_owned()),
        links: vec![Network {
            link: Some(CABLE.to_owned()),
            address: Some((address(number), PREFIX)),
            ..Network::default()
        }],
        node_ip: Some(address(number)),
        ..Settings::default()
    }
}

/// The token of this board's machines: it stays, as their data does.
fn token(tree: &Tree, board: &Board) -> Result<String> {
    let folder = tree.build.join("machines");
    host::folder(&folder)?;
    let path = folder.join(format!("{}.token", board.name));
    if let Ok(token) = fs::read_to_string(&path) {
        return Ok(token.trim().to_owned());
    }
    let token = new_token()?;
    fs::write(&path, &token).doing(format_args!("write {}", path.display()))?;
    Ok(token)
}

/// Flashes a new card with the settings file `text`; one that has data gets the new image and its settings around it.
pub fn put(tree: &Tree, board: &Board, image: &Image, place: &Place, text: &str, fresh: bool) -> Result<()> {
    let disk = &place.files.disk;
    let inputs = format!("{}\n{text}", image.inputs);
    let is_same = fs::read_to_string(&place.inputs).is_ok_and(|before| before == inputs);
    if is_same && !fresh && disk.exists() {
        return Ok(());
    }
    if let Some(machine) = Machine::running(&place.files) {
        machine.shut_down()?;
    }
    host::folder(disk.parent().unwrap_or(Path::new(".")))?;
    if disk.exists() && !fresh {
        copy_without_data(image, disk)?;
        put_settings(image, disk, text)?;
    } else {
        put_new(tree, board, image, disk, &Brought { settings: Some(text.to_owned()), files: Vec::new() })?;
    }
    fs::write(&place.inputs, inputs).doing("note which image the machine has")
}

/// Flashes a new card, as large as the board's are.
pub fn put_new(tree: &Tree, board: &Board, image: &Image, disk: &Path, brought: &Brought) -> Result<()> {
    let _stale = fs::remove_file(disk);
    flash(&image.disk, disk, brought, &tree.build.join("flash"), &mut |_, _, _| {})?;
    let size = board.qemu.as_ref().map_or(0, |qemu| qemu.disk_mib << 20).max(image.layout.sectors() * SECTOR);
    let file = File::options().write(true).open(disk).doing(format_args!("open {}", disk.display()))?;
    file.set_len(size).doing(format_args!("enlarge {}", disk.display()))
}

/// Puts settings on the boot partition of a card that is not in use.
pub fn put_settings(image: &Image, disk: &Path, text: &str) -> Result<()> {
    let source = disk.with_file_name(settings::FILE);
    fs::write(&source, text).doing(format_args!("write {}", source.display()))?;
    let inside = format!("{}@@{}", disk.display(), image.layout.part("firmware").at * SECTOR);
    run(tool("mcopy").args(["-o", "-i", &inside]).arg(&source).arg(format!("::{}", settings::FILE))).map(drop)
}

/// Starts those that do not run, the server first; gives back the port of its API.
fn start(board: &Board, image: &Image, places: &[Place], wanted: &Wanted) -> Result<u16> {
    let running = places.iter().all(|place| Machine::running(&place.files).is_some());
    let known = places.iter().find(|place| Machine::running(&place.files).is_some()).map(known_port);
    // The cable's number goes with the port: who runs already is on it.
    let port = known.map_or_else(free_port, |port| port)?;
    if running {
        return Ok(port);
    }
    for (number, place) in (1..).zip(places).filter(|(_, place)| Machine::running(&place.files).is_none()) {
        switch_on(board, image, place, number, port, wanted.way)?;
    }
    Ok(port)
}

/// The number of the cable that goes with the API's port.
pub fn cable(port: u16) -> u16 {
    port + CABLE_NUMBER
}

/// Starts the board of this number on the cable that goes with `port`.
pub fn switch_on(board: &Board, image: &Image, place: &Place, number: u8, port: u16, way: Way) -> Result<Machine> {
    let lan = Some(Lan { number: cable(port), station: number });
    let wires = Wires { api_port: (number == 1).then_some(port), lan, ..Wires::default() };
    fs::write(&place.port, port.to_string()).doing("note the port")?;
    let words = command_line(board, image, &place.files, &wires, way)?;
    Machine::start(&place.files, &words)
}

/// Waits until every board's node is ready in its present boot.
fn wait(places: &[Place], port: u16, kubeconfig: &Path, began: Instant) -> Result<()> {
    let started = Instant::now();
    let within = READY_WITHIN * TIMES_AS_LONG;
    let mut heard = vec![0; places.len()];
    let mut ready: Vec<Option<String>> = vec![None; places.len()];
    while ready.iter().any(Option::is_none) {
        for (place, heard) in places.iter().zip(&mut heard) {
            *heard = repeat_console(&place.files.console, *heard, began);
        }
        let has_api = handed_out(&places[0].files.kubeconfig)
            .is_some_and(|text| write_kubeconfig(&text, port, kubeconfig).is_ok())
            && kubectl(kubeconfig, &["get", "--raw", "/readyz"]).is_ok();
        for (place, node) in places.iter().zip(&mut ready).filter(|(_, node)| has_api && node.is_none()) {
            *node = boot_number(&place.files.console).and_then(|boot| ready_node(kubeconfig, &boot));
            if let Some(name) = node {
                tell(began, &format!("node {name} is Ready"));
            }
        }
        if let Some(place) = places.iter().find(|place| Machine::running(&place.files).is_none()) {
            return Err(failed("went down", &place.files));
        }
        if started.elapsed() > within {
            let late = ready.iter().position(Option::is_none).unwrap_or(0);
            return Err(failed("is not Ready in time", &places[late].files));
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

fn failed(what: &str, files: &Files) -> crate::error::Error {
    let console = &files.console;
    wrong(format_args!("a machine {what}; the last lines of {}:\n{}", shown(console), last_lines(console)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_board_is_the_server_of_the_others() {
        let token = "abcdef.0123456789abcdef";
        for number in 1..=3 {
            let wanted = settings(number, token);
            let (read, problems) = settings::read(settings::file(&wanted).as_bytes());
            assert_eq!((read, problems), (wanted, vec![]));
        }
        assert_eq!(settings(1, token).role, Role::Server);
        assert_eq!(settings(3, token).server.unwrap().to_string(), "https://10.77.0.1:6443");
    }
}
