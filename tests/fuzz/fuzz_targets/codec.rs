//! Any bytes as a message: decoded or refused, and what decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wmall_proto::codec;
use wmall_proto::rpc::{Request, Response};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = codec::decode::<Request>(bytes) {
        assert_eq!(codec::encode(&request), bytes);
    }
    if let Ok(answer) = codec::decode::<Result<Response, wmall_proto::RpcError>>(bytes) {
        let again = codec::encode(&answer);
        assert_eq!(codec::decode::<Result<Response, wmall_proto::RpcError>>(&again), Ok(answer));
    }
});
