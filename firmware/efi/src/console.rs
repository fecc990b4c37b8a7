//! The firmware's console: a line at a time, behind the name that everything of ours says there.
//!
//! Start at [`say`].

use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use uefi_raw::protocol::console::SimpleTextOutputProtocol;
use uefi_raw::table::system::SystemTable;

/// For the one who has no table at hand: the panic handler.
static TABLE: AtomicPtr<SystemTable> = AtomicPtr::new(ptr::null_mut());
/// So many letters go to the firmware at once.
const LETTERS: usize = 120;

/// Remembers the table for a panic.
pub fn remember(table: &'static SystemTable) {
    TABLE.store(ptr::from_ref(table).cast_mut(), Ordering::Relaxed);
}

/// Tells a line.
pub fn say(table: &SystemTable, what: fmt::Arguments<'_>) {
    let mut console = Console { output: table.stdout, letters: [0; LETTERS + 1], count: 0 };
    // The console says no: nobody is there to be told.
    let _untold = writeln!(console, "skerry: {what}");
    console.flush();
}

/// Tells of a panic and restarts the machine.
#[cfg_attr(not(target_os = "uefi"), expect(dead_code, reason = "only the firmware's panic handler panics here"))]
pub fn last_words(info: &core::panic::PanicInfo<'_>) -> ! {
    let table = TABLE.load(Ordering::Relaxed);
    // SAFETY: it was set from a reference that stays, or not at all.
    if let Some(table) = unsafe { table.as_ref() } {
        say(table, format_args!("the boot loader failed: {info}"));
        crate::restart(table)
    }
    // The firmware restarts a machine whose loader says nothing for five minutes.
    loop {
        core::hint::spin_loop();
    }
}

struct Console {
    output: *mut SimpleTextOutputProtocol,
    /// The last one stays NUL.
    letters: [u16; LETTERS + 1],
    count: usize,
}

impl Console {
    fn add(&mut self, letter: u16) {
        if self.count == LETTERS {
            self.flush();
        }
        self.letters[self.count] = letter;
        self.count += 1;
    }

    fn flush(&mut self) {
        self.letters[self.count] = 0;
        self.count = 0;
        if !self.output.is_null() {
            // SAFETY: the firmware's own protocol, and letters of ours that end with NUL.
            let _untold = unsafe { ((*self.output).output_string)(self.output, self.letters.as_ptr()) };
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.encode_utf16() {
            if letter == u16::from(b'\n') {
                self.add(u16::from(b'\r'));
            }
            self.add(letter);
        }
        Ok(())
    }
}
