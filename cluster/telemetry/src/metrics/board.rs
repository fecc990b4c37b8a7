//! What a board says of itself in `/proc` and `/sys`: temperature, undervoltage, what was written to its card.
//!
//! Start at [`read`]; [`disk`] is the pure part.

use std::fs;
use std::path::Path;

use super::wire::series;

/// The kernel counts in these, whatever the disk's own are.
const SECTOR_BYTES: f64 = 512.0;

/// Series and values of this machine; what it does not have is not there.
pub(crate) fn read(sys: &Path, node: &str) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for zone in entries(&sys.join("class/thermal"), "thermal_zone") {
        if let Some(millis) = number(&zone.join("temp")) {
            let sensor = text(&zone.join("type"));
            values.push((series("node_thermal_zone_temp", &[("node", node), ("type", &sensor)]), millis / 1000.0));
        }
    }
    for monitor in entries(&sys.join("class/hwmon"), "hwmon") {
        // The Raspberry Pi's firmware says so when the supply falls below 4.63 V.
        if let (true, Some(alarm)) =
            (text(&monitor.join("name")) == "rpi_volt", number(&monitor.join("in0_lcrit_alarm")))
        {
            values.push((series("node_undervoltage", &[("node", node)]), alarm));
        }
    }
    for block in entries(&sys.join("block"), "") {
        let device = block.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if is_disk(&device)
            && let Some((read, written)) = disk(&text(&block.join("stat")))
        {
            let labels = [("node", node), ("device", device.as_str())];
            values.push((series("node_disk_read_bytes_total", &labels), read));
            values.push((series("node_disk_written_bytes_total", &labels), written));
        }
    }
    values
}

/// Cards, disks and sticks; not what lies upon them.
fn is_disk(device: &str) -> bool {
    ["mmcblk", "sd", "vd", "nvme", "xvd"].iter().any(|kind| device.starts_with(kind)) && !device.contains("boot")
}

/// Bytes read and written, of `/sys/block/DEVICE/stat`.
fn disk(stat: &str) -> Option<(f64, f64)> {
    let mut fields = stat.split_whitespace().map(str::parse::<f64>);
    let (read, written) = (fields.nth(2)?.ok()?, fields.nth(3)?.ok()?);
    Some((read * SECTOR_BYTES, written * SECTOR_BYTES))
}

fn entries(folder: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let mut found: Vec<_> = found.filter(named).collect();
    found.sort();
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: &Path) -> Option<f64> {
    text(path).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        put("class/thermal/thermal_zone0/type", "cpu-thermal\n");
        put("class/thermal/thermal_zone0/temp", "48312\n");
        put("class/hwmon/hwmon0/name", "cpu_thermal\n");
        put("class/hwmon/hwmon1/name", "rpi_volt\n");
        put("class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
        put("block/mmcblk0/stat", "   100 1 8 3   200 5 16 7 0 9 9 0 0 0 0\n");
        put("block/mmcblk0boot0/stat", "1 1 1 1 1 1 1 1\n");
        put("block/loop0/stat", "1 1 1 1 1 1 1 1\n");
        let found = read(folder.path(), "n");
        let expected = [
            (r#"node_thermal_zone_temp{node="n",type="cpu-thermal"}"#, 48.312),
            (r#"node_undervoltage{node="n"}"#, 1.0),
            (r#"node_disk_read_bytes_total{node="n",device="mmcblk0"}"#, 4096.0),
            (r#"node_disk_written_bytes_total{node="n",device="mmcblk0"}"#, 8192.0),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
        let told = crate::metrics::families::told(&found).to_string();
        assert!(found.iter().all(|(series, _)| told.contains(series)), "{told}");
        assert!(read(&folder.path().join("nothing"), "n").is_empty());
    }
}
