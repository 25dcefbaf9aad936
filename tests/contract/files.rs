//! What lies in a folder, with what is of one run left out of the names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every file below `folder`, a line each. What SQLite keeps beside its file while it is open is no matter of ours.
pub fn below(folder: &str) -> String {
    fn walk(folder: &Path, under: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{under}{}", general(&name));
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else if !name.ends_with("-wal") && !name.ends_with("-shm") {
                found.insert(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new(folder), "", &mut found);
    found.into_iter().map(|path| path + "\n").collect()
}

/// A name without its identifiers.
fn general(name: &str) -> String {
    let uuid = name.get(..36).filter(|head| uuid::Uuid::try_parse(head).is_ok());
    if let Some(uuid) = uuid {
        return format!("<tag_id>{}", &name[uuid.len()..]);
    }
    let is_digest = |word: &&str| word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    match name.split(['.', '-']).find(is_digest) {
        Some(digest) => name.replace(digest, "<digest>"),
        None => name.to_owned(),
    }
}
