//! Why a file or folder that somebody has named cannot be had.

use std::io::ErrorKind;
use std::path::Path;

use super::systemd;

/// Folders that a unit with `ProtectHome=` does not see.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What to say behind the name of `path`, which is no `wanted` (`file` or `folder`).
pub fn why(path: &Path, wanted: &str) -> String {
    told(path, wanted, systemd::is_in_unit())
}

fn told(path: &Path, wanted: &str, in_unit: bool) -> String {
    let what = match path.metadata() {
        Ok(_) => return format!("is not a {wanted}"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => "cannot be looked at by this user",
        Err(_) => "does not exist",
    };
    if in_unit && HOMES.iter().any(|home| path.starts_with(home)) {
        return format!("{what} for the unit (ProtectHome= hides home folders): move it below /var/lib/vtagd or /srv");
    }
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_folders_are_hidden_from_a_unit_only() {
        let path = Path::new("/home/nobody-here/models/vit");
        assert_eq!(told(path, "folder", false), "does not exist");
        assert!(told(path, "folder", true).contains("ProtectHome= hides"));
        assert_eq!(told(Path::new("/srv/no/such"), "folder", true), "does not exist");
        assert_eq!(told(Path::new("/"), "file", true), "is not a file");
    }
}
