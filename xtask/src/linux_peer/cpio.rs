//! An initramfs: files in the `newc` format of cpio, which Linux unpacks as its first root.

/// The format's name of the end.
const END: &str = "TRAILER!!!";
/// A regular file that all may read and run.
const MODE: usize = 0o100_755;

/// An archive of `files`, each a name and its bytes.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, (name, bytes)) in files.iter().enumerate() {
        entry(&mut out, index + 1, name, MODE, bytes);
    }
    entry(&mut out, 0, END, 0, &[]);
    out
}

fn entry(out: &mut Vec<u8>, inode: usize, name: &str, mode: usize, bytes: &[u8]) {
    out.extend(b"070701");
    // inode, mode, user, group, links, time, size, device (4 numbers), length of the name, sum.
    let fields = [inode, mode, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes().chain([0]));
    pad(out);
    out.extend(bytes);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: names and contents begin at multiples of four, with their lengths before them.
    #[test]
    fn archive_is_as_the_format_says() {
        let out = archive(&[("init", b"hello")]);
        let text = String::from_utf8_lossy(&out);
        assert!(text.starts_with("07070100000001000081ed0000000000000000"), "{text}");
        // The header is 110 bytes, the name 5: the contents begin at 116.
        assert_eq!((&out[110..115], &out[116..121]), (&b"init\0"[..], &b"hello"[..]));
        assert_eq!((text[54..62].to_owned(), &out[124..130]), ("00000005".into(), &b"070701"[..]));
        assert!(text.trim_end_matches('\0').ends_with(END) && out.len().is_multiple_of(4));
    }
}
