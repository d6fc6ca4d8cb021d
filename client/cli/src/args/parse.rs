//! Words of the command line that are values of ours.

use wmall_client::Source;
use wmall_proto::{BucketName, ChunkId, FileId, ObjectName};

use super::Quota;

pub(super) fn parse_file(text: &str) -> Result<FileId, String> {
    text.parse().map_err(|e: wmall_proto::ids::ParseIdError| e.to_string())
}

pub(super) fn parse_chunk(text: &str) -> Result<ChunkId, String> {
    text.parse().map_err(|e: wmall_proto::ids::ParseIdError| e.to_string())
}

/// A name has a slash; a CID has none.
pub(super) fn parse_source(text: &str) -> Result<Source, String> {
    if !text.contains('/') {
        return parse_file(text).map(Source::File);
    }
    match parse_object(text)? {
        (bucket, Some(name)) => Ok(Source::Object(bucket, name)),
        (_, None) => Err("the object's name is missing behind the slash".into()),
    }
}

pub(super) fn parse_object(text: &str) -> Result<(BucketName, Option<ObjectName>), String> {
    let (bucket, name) =
        text.split_once('/').ok_or("write BUCKET/NAME, or BUCKET/ for the file's own name")?;
    let bucket = BucketName::new(bucket).map_err(|e| e.to_string())?;
    if name.is_empty() {
        return Ok((bucket, None));
    }
    Ok((bucket, Some(ObjectName::new(name).map_err(|e| e.to_string())?)))
}

/// A number of bytes, with K, M, G or T for powers of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        unit => return Err(format!("{unit:?} is no unit; write K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
    number.checked_shl(shift).filter(|n| n >> shift == number).ok_or_else(|| format!("{text} is too much"))
}

pub(super) fn parse_quota_bytes(text: &str) -> Result<Quota, String> {
    if text == "none" { Ok(Quota(None)) } else { parse_bytes(text).map(|n| Quota(Some(n))) }
}

pub(super) fn parse_quota(text: &str) -> Result<Quota, String> {
    if text == "none" {
        return Ok(Quota(None));
    }
    text.parse().map(|n| Quota(Some(n))).map_err(|_| format!("{text:?} is no number and not `none`"))
}

pub(super) fn parse_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let malformed = || format!("{text:?} is no range; write A-B, both inclusive, or A- up to the end");
    let (first, last) = text.split_once('-').ok_or_else(malformed)?;
    let first: u64 = first.parse().map_err(|_| malformed())?;
    if last.is_empty() {
        return Ok((first, None));
    }
    let last: u64 = last.parse().map_err(|_| malformed())?;
    if last < first {
        return Err(format!("the range {text} ends before it starts"));
    }
    Ok((first, Some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_ranges() {
        assert_eq!(parse_bytes("64K"), Ok(65_536));
        assert_eq!(parse_bytes("4MiB"), Ok(4 << 20));
        assert!(parse_bytes("4X").is_err() && parse_bytes("").is_err());
        assert!(parse_bytes("99999999999T").is_err());
        assert_eq!(parse_range("0-99"), Ok((0, Some(99))));
        assert_eq!(parse_range("5-"), Ok((5, None)));
        assert!(parse_range("9-5").is_err() && parse_range("x-5").is_err() && parse_range("5").is_err());
    }

    #[test]
    fn names_and_cids_are_told_apart() {
        assert!(matches!(parse_source("a/b/c"), Ok(Source::Object(..))));
        assert!(parse_source("a/").is_err());
        assert!(parse_source("nonsense").is_err());
        assert!(matches!(parse_source(&"0".repeat(64)), Ok(Source::File(_))));
    }
}
