//! Text kept compressed, in pieces that can be put together.
//!
//! Each piece ends with a full flush: it begins and ends on a byte and refers to nothing before it, so pieces
//! one after another are one deflate stream, and their checksums can be combined. What has not changed is never
//! compressed again.

use std::io;
use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What a gzip file begins with: deflate, no name, no time, an unknown system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of a deflate stream, empty.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// The most that a block can hold as it is.
const MOST_STORED: usize = 0xffff;
/// What is unpacked at once for a client that does not take gzip.
const CHUNK: usize = 64 * 1024;

/// A piece of text, compressed.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    pub(super) deflated: Bytes,
    checksum: Hasher,
    /// Bytes of text.
    length: u64,
}

impl Piece {
    /// Text as it is, in blocks that say so: for what is short, and would be compressed for one client only.
    pub(super) fn stored(text: &[u8]) -> Self {
        let mut deflated = BytesMut::with_capacity(text.len() + 5 * (text.len() / MOST_STORED + 1));
        for block in text.chunks(MOST_STORED) {
            // Not the last block, as it is, its length, and that once more with each bit turned.
            let length = block.len() as u16;
            deflated.put_u8(0);
            deflated.put_u16_le(length);
            deflated.put_u16_le(!length);
            deflated.put_slice(block);
        }
        Self::new(deflated.freeze(), text)
    }

    /// `deflated`: the text, in whole blocks.
    fn new(deflated: Bytes, text: &[u8]) -> Self {
        let mut checksum = Hasher::new();
        checksum.update(text);
        Self { deflated, checksum, length: text.len() as u64 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Compresses pieces, one after another. One is enough for all readers: it takes a third of a mebibyte, and a piece a
/// millisecond or two.
#[derive(Debug)]
pub(super) struct Deflater(Mutex<Compress>);

impl Deflater {
    /// The fastest level: what a higher one saves on the wire it costs many times over in time.
    pub(super) fn new() -> Self {
        Self(Mutex::new(compress()))
    }

    pub(super) fn piece(&self, text: &[u8]) -> io::Result<Piece> {
        let mut deflated = Vec::with_capacity(text.len() / 4 + 64);
        let mut compress = self.0.lock().unwrap_or_else(|poisoned| {
            // What a panic left half done must not be in the next piece.
            let mut guard = poisoned.into_inner();
            *guard = compress();
            self.0.clear_poison();
            guard
        });
        let before = compress.total_in();
        loop {
            let taken = usize::try_from(compress.total_in() - before).unwrap_or(usize::MAX);
            let rest = text.get(taken..).unwrap_or_default();
            compress.compress_vec(rest, &mut deflated, FlushCompress::Full).map_err(io::Error::other)?;
            // Room that is left says that all has been written.
            if deflated.len() < deflated.capacity() {
                break;
            }
            deflated.reserve(deflated.capacity());
        }
        drop(compress);
        deflated.shrink_to_fit();
        Ok(Piece::new(deflated.into(), text))
    }

    /// A whole gzip file.
    pub(super) fn file(&self, content: &[u8]) -> io::Result<Bytes> {
        let piece = self.piece(content)?;
        Ok([&HEADER[..], &piece.deflated, &trailer([&piece])].concat().into())
    }
}

fn compress() -> Compress {
    Compress::new(Compression::fast(), false)
}

/// Puts pieces together.
#[derive(Default)]
pub(super) struct Joined {
    deflated: BytesMut,
    checksum: Hasher,
    length: u64,
}

impl Joined {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { deflated: BytesMut::with_capacity(bytes), ..Self::default() }
    }

    pub(super) fn push(&mut self, piece: &Piece) {
        self.deflated.put_slice(&piece.deflated);
        self.checksum.combine(&piece.checksum);
        self.length += piece.length;
    }

    pub(super) fn finish(self) -> Piece {
        Piece { deflated: self.deflated.freeze(), checksum: self.checksum, length: self.length }
    }
}

/// What follows the pieces of a gzip file: the end of its stream, its checksum and its length.
pub(super) fn trailer<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Bytes {
    let (mut checksum, mut length) = (Hasher::new(), 0u64);
    for piece in pieces {
        checksum.combine(&piece.checksum);
        length += piece.length;
    }
    let mut trailer = BytesMut::with_capacity(10);
    trailer.put_slice(&LAST_BLOCK);
    trailer.put_u32_le(checksum.finalize());
    // Modulo 2³², as the format has it.
    trailer.put_u32_le(length as u32);
    trailer.freeze()
}

/// A piece's text again, in parts.
pub(super) struct Inflate {
    inflate: Decompress,
    deflated: Bytes,
    failed: bool,
}

impl Inflate {
    pub(super) fn new(piece: &Piece) -> Self {
        Self { inflate: Decompress::new(false), deflated: piece.deflated.clone(), failed: false }
    }
}

impl Iterator for Inflate {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut text = Vec::with_capacity(CHUNK);
        let before = self.inflate.total_in();
        let result = self.inflate.decompress_vec(&self.deflated, &mut text, FlushDecompress::None);
        let taken = usize::try_from(self.inflate.total_in() - before).unwrap_or(usize::MAX);
        let _ = self.deflated.split_to(taken.min(self.deflated.len()));
        match result {
            Ok(_) if text.is_empty() => None,
            Ok(_) => Some(Ok(text.into())),
            Err(error) => {
                self.failed = true;
                Some(Err(io::Error::other(error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn texts() -> Vec<Vec<u8>> {
        let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        vec![b"first\n".repeat(10_000), Vec::new(), b"x".to_vec(), noise, b"first\n".repeat(3)]
    }

    #[test]
    fn pieces_put_together_are_a_gzip_file() {
        let deflater = Deflater::new();
        let pieces: Vec<_> = texts().iter().map(|text| deflater.piece(text).unwrap()).collect();
        let mut joined = Joined::default();
        pieces.iter().take(3).for_each(|piece| joined.push(piece));
        let joined = joined.finish();
        let end = trailer([&joined, &pieces[3], &pieces[4]]);
        let file = [&HEADER[..], &joined.deflated, &pieces[3].deflated, &pieces[4].deflated, &end].concat();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut text).unwrap();
        assert!(text == texts().concat());
    }

    #[test]
    fn what_is_stored_is_a_piece_like_others() {
        let deflater = Deflater::new();
        let pieces: Vec<_> = texts().iter().map(|text| Piece::stored(text)).collect();
        let between = deflater.piece(b"between").unwrap();
        let all = [&pieces[0], &between, &pieces[1], &pieces[3], &between, &pieces[4]];
        let deflated: Vec<u8> = all.iter().flat_map(|piece| piece.deflated.to_vec()).collect();
        let file = [&HEADER[..], &deflated, &trailer(all)].concat();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut text).unwrap();
        let [first, empty, _, noise, last] = &texts()[..] else { panic!("other texts") };
        assert!(text == [first, &b"between"[..], empty, noise, b"between", last].concat());
    }

    #[test]
    fn each_content_is_a_file_of_its_own() {
        let deflater = Deflater::new();
        for content in texts() {
            let file = deflater.file(&content).unwrap();
            let mut again = Vec::new();
            flate2::read::GzDecoder::new(&*file).read_to_end(&mut again).unwrap();
            assert!(again == content);
        }
    }

    #[test]
    fn a_panic_leaves_nothing_in_the_next_piece() {
        let deflater = Deflater::new();
        let half_done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut compress = deflater.0.lock().unwrap();
            compress.compress_vec(b"half", &mut Vec::with_capacity(100), FlushCompress::None).unwrap();
            panic!("meant to panic");
        }));
        assert!(half_done.is_err());
        let mut content = String::new();
        let file = deflater.file(b"whole").unwrap();
        flate2::read::GzDecoder::new(&*file).read_to_string(&mut content).unwrap();
        assert_eq!(content, "whole");
    }

    #[test]
    fn pieces_can_be_unpacked_in_parts() {
        let deflater = Deflater::new();
        let mut joined = Joined::default();
        texts().iter().for_each(|text| joined.push(&deflater.piece(text).unwrap()));
        let parts: Vec<Bytes> = Inflate::new(&joined.finish()).collect::<Result<_, _>>().unwrap();
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() <= CHUNK));
        assert!(parts.concat() == texts().concat());
    }

    #[test]
    fn what_is_not_deflated_is_an_error_and_an_end() {
        let piece = Piece { deflated: Bytes::from_static(&[0xff; 10]), ..Piece::default() };
        let parts: Vec<_> = Inflate::new(&piece).collect();
        assert!(parts.len() == 1 && parts[0].is_err());
    }
}
