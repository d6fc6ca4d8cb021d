//! What the fuzz targets do with their bytes. The targets (`tests/fuzz/`) and the regressions in `make test`
//! call the same functions; each panics when something is found.

use std::sync::Arc;

use wmall_journal::sim::SimDisk;
use wmall_journal::{Disk, Journal, Options, Record};
use wmall_manifest::{Block, InclusionProof};
use wmall_proto::join::{JoinRequest, JoinToken};
use wmall_proto::rpc::{CallKind, Request, Response};
use wmall_proto::{FileId, RpcError, codec};
use wmall_rbft::{
    ChainId, Checker, Config, Digest, Durable, Epoch, Input, Message, Nonce, Output, PublicKey, Rbft, Rules,
    Signature, Signer, Time, ValidatorSet, verify,
};

/// A target: its name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("codec", frames_and_answers),
    ("request", every_request),
    ("journal", journal),
    ("segment", segment),
    ("proof", proofs_and_blocks),
    ("join", join),
    ("consensus", consensus),
];

/// Any bytes as a frame, a request or an answer: decoded or refused, and what decodes encodes to the same.
pub fn frames_and_answers(bytes: &[u8]) {
    if let Some((prefix, body)) = bytes.split_first_chunk::<4>()
        && let Ok(length) = codec::check_frame_length(*prefix)
    {
        assert!(length <= codec::MAX_MESSAGE);
        let _ = codec::decode::<Request>(&body[..length.min(body.len())]);
    }
    if let Ok(request) = codec::decode::<Request>(bytes) {
        assert_eq!(codec::encode(&request), bytes);
    }
    if let Ok(answer) = codec::decode::<Result<Response, RpcError>>(bytes) {
        let again = codec::encode(&answer);
        assert_eq!(codec::decode::<Result<Response, RpcError>>(&again), Ok(answer));
    }
}

/// Any bytes behind the number of every request in turn: each decoder sees them.
pub fn every_request(bytes: &[u8]) {
    for number in 0..=CallKind::ALL.len() as u32 {
        let message = [&number.to_le_bytes(), bytes].concat();
        if let Ok(request) = codec::decode::<Request>(&message) {
            assert_eq!(codec::encode(&request), message);
            assert!(CallKind::ALL.contains(&request.kind()));
        }
    }
}

/// Any bytes over a segment of a journal: it opens with what was written before them, or is refused.
pub fn journal(bytes: &[u8]) {
    let Some((at, junk)) = place(bytes) else { return };
    let options = || Options {
        identity: [5; 16],
        nonce: |number| [number as u8; 16],
        segment_bytes: 4096,
        max_bytes: 1 << 20,
        reserve_bytes: 0,
        queue_bytes: 1 << 20,
        replay_from: None,
        name: "fuzz".into(),
    };
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), options(), |_| Ok(())).expect("an empty folder");
    let mut ends = Vec::new();
    for n in 0..12u8 {
        let record =
            Record { kind: 1, meta: vec![n], payload: vec![vec![n; 100].into()], ..Record::default() };
        let places = journal.append_and_wait(vec![record]).expect("room");
        let place = places.first().expect("a place");
        ends.push(place.offset + Journal::record_bytes(1, 100));
    }
    drop(journal);
    let file = disk.open("0000000000.seg").expect("a segment");
    let at = usize::from(at) % 4096;
    let junk = &junk[..junk.len().min(4096 - at)];
    file.write_at(&[bytes::Bytes::copy_from_slice(junk)], at as u64).expect("in bounds");
    file.sync_all().expect("a sync");
    let mut seen = Vec::new();
    let opened = Journal::open(Arc::new(disk), options(), |found| {
        seen.push(found.meta.to_vec());
        Ok(())
    });
    if opened.is_ok() {
        // What ends before the junk was acknowledged and is whole: it is seen, in order, or the journal is
        // refused.
        let whole = ends.iter().filter(|end| **end <= at as u64).count();
        let expected: Vec<Vec<u8>> = (0..whole as u8).map(|n| vec![n]).collect();
        assert_eq!(seen.get(..whole), Some(&expected[..]), "records before offset {at}");
    }
}

/// Any bytes over a segment of a data disk.
pub fn segment(bytes: &[u8]) {
    if let Some((at, junk)) = place(bytes) {
        wmall_data_node::scan_any_segment(at, junk);
    }
}

fn place(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (at, junk) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_le_bytes(*at), junk))
}

/// Any text as a proof: none that verifies for a file that nobody has. Any bytes as a block of a manifest.
pub fn proofs_and_blocks(bytes: &[u8]) {
    if let Ok(proof) = serde_json::from_slice::<InclusionProof>(bytes) {
        assert!(proof.verify(FileId([0; 32])).is_err());
    }
    if let Some(block) = Block::decode(bytes) {
        assert_eq!(block.encode(), bytes);
    }
}

/// Any bytes at the join port, and any text as a token.
pub fn join(bytes: &[u8]) {
    if let Ok(request) = JoinRequest::decode(bytes) {
        assert_eq!(codec::encode(&request), bytes);
        let _ = wmall_transport::requested_key(&request.csr);
    }
    let _ = wmall_transport::requested_key(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<JoinToken>()
    {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

/// Takes every signature, so that what is behind them is reached, and signs nothing worth checking.
struct Anybody;

impl Checker for Anybody {
    fn check(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

impl Signer for Anybody {
    fn sign(&self, _: &[u8]) -> Signature {
        [0; 64]
    }
}

/// Any bytes as messages of consensus, one behind the other, to one validator of four: each is decoded or
/// refused, is the same bytes again, and the core has an answer to it.
pub fn consensus(bytes: &[u8]) {
    let (chain, config) = (ChainId(Digest([3; 32])), Config { checkpoint_interval: 1, ..Config::default() });
    let keys: Vec<PublicKey> = (1..=4).map(|n| [n; 32]).collect();
    let (Some(&own), Ok(set)) = (keys.first(), ValidatorSet::new(Epoch(0), keys.clone())) else { return };
    let mut memory = Durable::new(set);
    let Ok(mut replica) = Rbft::new(chain, config, (own, Box::new(Anybody)), memory.clone()) else { return };
    let mut inputs = vec![Input::Start { secret: Nonce(1), change: None, batches: Vec::new() }];
    let (mut rest, mut now) = (bytes, 0);
    // What the shell says of a batch that comes, and whether it finds a state that is wanted.
    let (mut done, mut finds) = (false, false);
    // No input knows the numbers that the replica asks with; some answers are to what it has asked.
    let mut asked = Nonce(0);
    loop {
        while let Some(input) = inputs.pop() {
            for output in replica.step(Time(now), input) {
                match output {
                    Output::Persist(record) => memory.apply(&record),
                    Output::StoreBatch(batch) => {
                        inputs.push(Input::BatchStored { digest: batch.digest(), done })
                    }
                    Output::Execute(block) => {
                        let sequence = block.proposal.sequence;
                        inputs.push(Input::Executed {
                            sequence,
                            state: Digest([1; 32]),
                            change: None,
                            done: Vec::new(),
                        });
                    }
                    Output::Update(certificate) if finds => {
                        inputs.push(Input::Updated { certificate, change: None, done: Vec::new() });
                    }
                    Output::Send { message, .. } => {
                        if let Message::Negotiate { nonce, .. } | Message::RecoveryInit { nonce, .. } =
                            &message
                        {
                            asked = *nonce;
                        }
                        assert_eq!(
                            Message::decode(&message.encode()),
                            Ok(message),
                            "what is said is understood"
                        );
                    }
                    _ => {}
                }
            }
        }
        let Some((&[who, wait, low, high], more)) = rest.split_first_chunk::<4>() else { return };
        let (message, more) = more.split_at(usize::from(u16::from_le_bytes([low, high])).min(more.len()));
        rest = more;
        now += u64::from(wait) * 20;
        (done, finds) = (who & 0x80 != 0, who & 0x40 != 0);
        inputs.push(Input::Tick);
        let Ok(mut decoded) = Message::decode(message) else { continue };
        assert_eq!(decoded.encode(), message);
        if let Message::Negotiated { nonce, .. } | Message::Recovery { nonce, .. } = &mut decoded
            && who & 0x20 == 0
        {
            *nonce = asked;
        }
        let (max_batches, window) = (config.max_batches, config.window());
        let rules = Rules { chain: &chain, sets: &memory.sets, checker: &Anybody, max_batches, window };
        let from = keys.get(usize::from(who) % keys.len()).copied().unwrap_or(own);
        if let Ok(verified) = verify(rules, from, decoded) {
            inputs.push(Input::Message(verified));
        }
    }
}
