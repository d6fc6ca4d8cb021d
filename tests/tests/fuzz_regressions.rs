//! Every fuzz target over the inputs that once found something (`tests/fuzz/regressions/TARGET/`), over seeds
//! of real messages, and over some thousand mutations of them.

use std::fs;

use wmall_proto::codec;
use wmall_proto::join::{JoinAddress, JoinRequest, JoinToken};
use wmall_proto::rpc::{Query, Request, Response};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ChunkId, NodeName, PoolId, Role, RpcError};
use wmall_rbft::{ChainId, Digest, Nonce};
use wmall_tests::fuzz::TARGETS;
use wmall_tests::rbft::{Any, Dice};
use wmall_tests::{bytes, repository};

/// Mutations of each seed.
const MUTATIONS: u64 = 400;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let name = NodeName::new("metadata-1").unwrap();
    let manifest =
        wmall_manifest::Manifest::new(100_000, 65_536, vec![ChunkId([1; 32]), ChunkId([2; 32])]).unwrap();
    match target {
        "codec" => {
            let request = Request::Read { linearizable: true, query: Query::Chunk(ChunkId([7; 32])) };
            let answer: Result<Response, RpcError> = Err(RpcError::not_found("chunk").hint("look elsewhere"));
            vec![codec::encode(&request), codec::encode_frame(&request), codec::encode(&answer)]
        }
        "request" => vec![codec::encode(&(PoolId(1), ChunkId([7; 32]), [9u8; 16])), vec![1; 200]],
        "journal" | "segment" => vec![bytes(1, 200), [&64u16.to_le_bytes()[..], b"WREC\x02\x01"].concat()],
        "proof" => {
            let proof = manifest.prove(1).unwrap();
            vec![serde_json::to_vec(&proof).unwrap(), manifest.blocks().remove(0)]
        }
        "join" => {
            let address = "127.0.0.1:7000".parse().unwrap();
            let token = JoinToken {
                cluster: ClusterId([1; 16]),
                ca: [2; 32],
                secret: [3; 32],
                role: Role::Data,
                name: Some(name.clone()),
                metadata: vec![JoinAddress { name: name.clone(), address, join: address }],
            };
            let request = JoinRequest { secret: [3; 32], name, csr: vec![0x30; 120] };
            vec![token.to_string().into_bytes(), codec::encode(&request)]
        }
        "consensus" => consensus(),
        other => panic!("no seeds for {other}"),
    }
}

/// One of each kind of message, some times over, as a validator in trouble might hear them.
fn consensus() -> Vec<Vec<u8>> {
    let chain = ChainId(Digest([3; 32]));
    let talk = |seed: u64| {
        let mut dice = Dice::new(seed);
        let mut bytes = Vec::new();
        for _ in 0..40 {
            let (around, view) = (dice.roll(4), dice.roll(3));
            let from = dice.roll(4) as u8;
            let message =
                Any { chain: &chain, size: 4, around, epoch: 0, view, asked: Nonce(0), dice: &mut dice }
                    .message([from + 1; 32]);
            let message = message.encode();
            if let Ok(length) = u16::try_from(message.len()) {
                bytes.extend([from, dice.roll(4) as u8]);
                bytes.extend(length.to_le_bytes());
                bytes.extend(message);
            }
        }
        bytes
    };
    (0..20).map(talk).collect()
}

#[test]
fn no_target_finds_anything_in_what_once_did_or_in_mutations_of_real_messages() {
    for (target, run) in TARGETS {
        let folder = repository().join("tests/fuzz/regressions").join(target);
        let mut inputs = seeds(target);
        let kept = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        inputs.extend(kept.map(|entry| fs::read(entry.unwrap().path()).unwrap()));
        run(&[]);
        run(&[0, 0]);
        for input in &inputs {
            run(input);
            for seed in 0..MUTATIONS {
                let noise = bytes(seed, 16);
                let mut mutated = input.clone();
                for pair in noise.chunks(4).take(1 + seed as usize % 4) {
                    let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % mutated.len().max(1);
                    match pair[3] % 4 {
                        0 if at < mutated.len() => mutated[at] ^= 1 << (pair[2] % 8),
                        1 if at < mutated.len() => mutated[at] = pair[2],
                        2 => mutated.truncate(at),
                        _ => mutated.insert(at.min(mutated.len()), pair[2]),
                    }
                }
                run(&mutated);
            }
        }
    }
}
