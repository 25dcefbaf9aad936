//! `api.trusted_proxies`: whose `X-Forwarded-For` counts. Pure.

use crate::api::AddressRange;
use crate::yaml::field_reader::{At, Field, Reader};

const REMEDY: &str = "write an address or a network, such as 10.0.0.7, 10.0.0.0/24, ::1 or fd00::/8";

/// The ranges; what cannot be one has been reported.
pub(super) fn check(field: &Field<Vec<At<String>>>, reader: &mut Reader<'_>) -> Vec<AddressRange> {
    let mut ranges = Vec::new();
    for at in field.given().into_iter().flat_map(|list| &list.value) {
        match at.value.trim().parse::<AddressRange>() {
            Ok(range) => {
                if range.is_everything() {
                    let message = "believes everybody: whoever asks can say from where, and is limited by nothing";
                    reader.warn(at, message, "name the proxies alone");
                }
                ranges.push(range);
            }
            Err(()) => reader.error(at, "is no address and no network", REMEDY),
        }
    }
    ranges
}
