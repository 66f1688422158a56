//! File names for display. A name may contain any bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as text: invalid UTF-8 bytes as `\xff`, so that two names never look the same.
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        let of = |bytes: &[u8]| shown(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(of(b"a/\xffb\xc3"), "a/\\xffb\\xc3");
        assert_eq!(of("ünï".as_bytes()), "ünï");
    }
}
