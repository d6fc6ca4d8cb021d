//! openraft's values as bytes. Entries are laid out by hand (their payload is bytes already); the rest is
//! small and rare enough for JSON.

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload, LogId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wmall_proto::{ErrorCode, RpcError, codec};

use crate::types::TypeConfig;

pub(super) type Entry = openraft::Entry<TypeConfig>;

/// Journal kinds of entries; what is in the payload.
pub(super) const BLANK: u8 = 1;
pub(super) const NORMAL: u8 = 2;
pub(super) const MEMBERSHIP: u8 = 3;

/// An entry on the wire.
#[derive(Debug, Encode, Decode)]
pub(super) struct WireEntry {
    head: [u8; 24],
    kind: u8,
    payload: Vec<u8>,
}

/// A message of two parts: JSON of what is small, bytes of what is not.
#[derive(Debug, Encode, Decode)]
pub(super) struct Envelope<T> {
    pub(super) head: Vec<u8>,
    pub(super) tail: T,
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Values of openraft's own types; serialising them into memory does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    serde_json::from_slice(bytes).map_err(malformed)
}

pub(super) fn malformed(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(ErrorCode::BadRequest, format!("malformed Raft message: {error}"))
}

/// Term, node and index, 8 bytes each, little-endian.
pub(super) fn encode_log_id(id: &LogId<u64>) -> [u8; 24] {
    let mut out = [0u8; 24];
    out[..8].copy_from_slice(&id.leader_id.term.to_le_bytes());
    out[8..16].copy_from_slice(&id.leader_id.node_id.to_le_bytes());
    out[16..].copy_from_slice(&id.index.to_le_bytes());
    out
}

pub(super) fn decode_log_id(bytes: &[u8; 24]) -> LogId<u64> {
    let word = |i: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&bytes[i..i + 8]);
        u64::from_le_bytes(word)
    };
    LogId::new(CommittedLeaderId::new(word(0), word(8)), word(16))
}

pub(super) fn encode_payload(payload: &EntryPayload<TypeConfig>) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(bytes) => (NORMAL, bytes.clone()),
        EntryPayload::Membership(membership) => (MEMBERSHIP, to_json(membership).into()),
    }
}

pub(super) fn decode_payload(kind: u8, bytes: Bytes) -> Result<EntryPayload<TypeConfig>, RpcError> {
    match kind {
        BLANK => Ok(EntryPayload::Blank),
        NORMAL => Ok(EntryPayload::Normal(bytes)),
        MEMBERSHIP => Ok(EntryPayload::Membership(from_json(&bytes)?)),
        other => Err(malformed(format!("no entry has kind {other}"))),
    }
}

pub(super) fn to_wire(entry: &Entry) -> WireEntry {
    let (kind, payload) = encode_payload(&entry.payload);
    WireEntry { head: encode_log_id(&entry.log_id), kind, payload: payload.to_vec() }
}

pub(super) fn from_wire(entry: WireEntry) -> Result<Entry, RpcError> {
    let payload = decode_payload(entry.kind, entry.payload.into())?;
    Ok(Entry { log_id: decode_log_id(&entry.head), payload })
}

pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, RpcError> {
    codec::decode(bytes).map_err(malformed)
}
