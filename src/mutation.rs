//! Malformed documents, for tests of everything that reads external input.
//!
//! Each property runs some hundred times. `PROPTEST_CASES=1000000 cargo test --lib properties` runs them for hours.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Any byte; those that mean something to a parser are more likely than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"{}[],:\"\\\n\r \x1e\x00\xff\xc0\xed#'-0eu/".as_slice())
    ]
}

/// Any bytes, fewer than `most`.
pub(crate) fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(byte(), 0..most)
}

#[derive(Debug, Clone)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        2 => (any::<Index>(), bytes(8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        1 => (any::<Index>(), 1..200_usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        1 => any::<Index>().prop_map(Mutation::Truncate),
    ]
}

/// A document with a few mutations.
pub(crate) fn mutated(document: impl Into<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let document = document.into();
    vec(mutation(), 1..5).prop_map(move |mutations| {
        let mut bytes = document.clone();
        for mutation in mutations {
            let place = |at: Index| at.index(bytes.len() + 1);
            let range = |at: Index, length: usize| place(at)..(place(at) + length).min(bytes.len());
            match mutation {
                Mutation::Replace(at, byte) => {
                    let range = range(at, 1);
                    bytes.splice(range, [byte]);
                }
                Mutation::Insert(at, more) => {
                    let place = place(at);
                    bytes.splice(place..place, more);
                }
                Mutation::Remove(at, length) => {
                    let range = range(at, length);
                    bytes.drain(range);
                }
                Mutation::Repeat(at, length) => {
                    let range = range(at, length);
                    let (end, again) = (range.end, bytes[range].to_vec());
                    bytes.splice(end..end, again);
                }
                Mutation::Truncate(at) => {
                    let place = place(at);
                    bytes.truncate(place);
                }
            }
        }
        bytes
    })
}

/// Splits bytes into chunks at these cuts.
pub(crate) fn chunks(bytes: &[u8], cuts: &[Index]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

/// The places where [`chunks`] cuts.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}
