//! A pool as a place for files: what is put comes back byte for byte, from another process, and
//! whatever is wrong is refused with a message that says what to do.

mod common;

use common::{
    Place, command, finish, good, noise, refused, stop, text, until, vmalloc, vmalloc_fed,
};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use vmalloc::Pool;

/// Goal: hundreds of MiB come back identical, from another process, to a pipe and to a file.
#[test]
fn a_large_file_comes_back_byte_for_byte() {
    let place = Place::with_pool("large", "256M");
    let bytes = noise((200 << 20) + 12_345, 1);
    let token = place.put(&bytes);
    assert!(place.get(&token) == bytes, "the pipe carried other bytes");
    let copy = tempfile::NamedTempFile::new().unwrap();
    let path = copy.path().to_str().unwrap();
    assert_eq!(text(vmalloc(&["get", place.str(), &token, "-o", path])), "");
    assert!(std::fs::read(copy.path()).unwrap() == bytes, "the file has other bytes");
}

/// Goal: a file has the length it had, not one rounded to pages; an empty one, too.
#[test]
fn every_length_comes_back_exactly_by_file_and_by_pipe() {
    let place = Place::with_pool("lengths", "16M");
    for len in [0, 1, 7, 4095, 4096, 4097, 12_288, 1 << 20, (5 << 20) + 1] {
        let bytes = noise(len, len as u64);
        assert!(place.get(&place.put(&bytes)) == bytes, "{len} bytes by file");
        let piped = text(vmalloc_fed(&["put", place.str(), "-"], &bytes));
        assert!(place.get(&piped) == bytes, "{len} bytes by pipe");
        for token in [place.info()["areas"][0]["token"].as_str().unwrap(), &piped] {
            // The first may be the second.
            let _ = vmalloc(&["rm", place.str(), token]);
        }
    }
}

/// Goal: one byte that happens to be zero is not taken for an empty file.
#[test]
fn a_file_of_one_zero_byte_is_not_an_empty_file() {
    let place = Place::with_pool("one", "1M");
    assert_eq!(place.get(&place.put(&[0])), [0]);
    assert_eq!(place.get(&place.put(&[])), [] as [u8; 0]);
}

/// Goal: what says 0 and has something is read to its end; what is read from the middle of a
/// redirected file is the rest of it.
#[test]
fn files_that_do_not_know_their_length_are_read_to_the_end() {
    let place = Place::with_pool("proc", "1M");
    let token = text(vmalloc(&["put", place.str(), "/proc/version"]));
    assert_eq!(place.get(&token), std::fs::read("/proc/version").unwrap());

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"skipped, then the rest").unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(9)).unwrap();
    let put = command(&["put", place.str(), "-"]).stdin(file).spawn().unwrap();
    assert_eq!(place.get(&text(finish(put))), b"then the rest");
}

/// Goal: an area that its members write is read, too.
#[test]
fn get_reads_an_area_that_is_shared_writable() {
    let place = Place::with_pool("shared", "8M");
    let pool = Pool::open(place.path()).unwrap();
    let bytes = noise((3 << 20) + 5, 3);
    let mut buf = pool.vmalloc(bytes.len()).unwrap();
    buf.copy_from_slice(&bytes);
    let shared = buf.share().unwrap();
    assert!(place.get(&shared.token().to_string()) == bytes);
}

#[test]
fn a_token_is_stale_once_its_area_is_freed_and_stays_so() {
    let place = Place::with_pool("stale", "1M");
    let (token, other) = (place.put(b"first"), place.put(b"other"));
    assert_eq!(text(vmalloc(&["rm", place.str(), &token])), "");
    for args in [["get", place.str(), &token], ["rm", place.str(), &token]] {
        let message = refused(vmalloc(&args), 1);
        assert!(message.contains(&token) && message.contains("was freed"), "{message}");
    }
    // The next tenant of the same place is not what the old token names.
    let next = place.put(b"second");
    assert_ne!(next, token);
    refused(vmalloc(&["get", place.str(), &token]), 1);
    assert_eq!((place.get(&next), place.get(&other)), (b"second".to_vec(), b"other".to_vec()));
}

#[test]
fn tokens_that_are_none_and_tokens_of_other_pools_are_refused() {
    let (place, other) = (Place::with_pool("one", "1M"), Place::with_pool("other", "1M"));
    let token = other.put(b"elsewhere");
    for verb in ["get", "rm"] {
        let message = refused(vmalloc(&[verb, place.str(), &token]), 1);
        assert!(message.contains("another pool"), "{message}");
        let message = refused(vmalloc(&[verb, place.str(), "vm1-zz"]), 2);
        assert!(message.contains("is not a token"), "{message}");
        // The right pool, and an area that it cannot have.
        let pool = token.split('-').nth(1).unwrap();
        let far = format!("vm1-{pool}-ffffffff-1-1");
        refused(vmalloc(&[verb, other.str(), &far]), 1);
    }
    assert_eq!(other.get(&token), b"elsewhere");
}

/// Goal: a framed pool is made, filled, looked at, checked, drawn and emptied by the same commands.
#[test]
fn a_framed_pool_serves_the_same_commands() {
    let place = Place::new("framed");
    good(vmalloc(&["create", place.str(), "--capacity", "4M", "--members", "4", "--framed"]));
    let bytes = noise(1_000_003, 3);
    let token = place.put(&bytes);
    let info = text(vmalloc(&["info", place.str()]));
    assert!(info.contains("\n  framed    its frames are there from the start\n"), "{info}");
    assert!(info.contains("\n  VMAs      one a run of frames; with stitched views at"), "{info}");
    assert!(info.contains("\n  counted   1 alloc (0 revived), 0 frees,\n"), "{info}");
    let mut totals = info.lines().take_while(|line| *line != "areas");
    assert!(totals.all(|line| line.chars().count() <= 80), "{info}");
    assert_eq!(place.info()["framed"], true);
    for command in [&["doctor"][..], &["top", "--once"], &["map"], &["info", "--metrics"]] {
        let mut args = command.to_vec();
        args.insert(1, place.str());
        good(vmalloc(&args));
    }
    good(vmalloc(&["doctor", place.str(), "--repair"]));
    assert!(place.get(&token) == bytes, "other bytes came back");
    good(vmalloc(&["rm", place.str(), &token]));
    assert_eq!(place.info()["stats"]["used_bytes"], 0);
}

/// Goal: nothing is created or truncated for a token that is no good.
#[test]
fn a_bad_token_leaves_the_output_file_alone() {
    let place = Place::with_pool("output", "1M");
    let token = place.put(b"x");
    good(vmalloc(&["rm", place.str(), &token]));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"precious").unwrap();
    let path = file.path().to_str().unwrap();
    refused(vmalloc(&["get", place.str(), &token, "-o", path]), 1);
    assert_eq!(std::fs::read(file.path()).unwrap(), b"precious");
}

#[test]
fn what_is_no_pool_is_refused_and_never_removed() {
    let place = Place::new("none");
    let missing = refused(vmalloc(&["get", place.str(), "vm1-00000001-0-1-1"]), 1);
    assert!(missing.contains("vmalloc create"), "{missing}");
    for bytes in [vec![], vec![7; 100], vec![7; 1 << 20], vec![0; 1 << 20]] {
        std::fs::write(place.path(), &bytes).unwrap();
        for args in [
            &["info", place.str()][..],
            &["put", place.str(), "/proc/version"],
            &["rm", place.str()],
            &["rm", place.str(), "--force"],
        ] {
            refused(vmalloc(args), 1);
        }
        assert_eq!(std::fs::read(place.path()).unwrap(), bytes, "it is as it was");
    }
    refused(vmalloc(&["info", "/dev/null"]), 1);
    refused(vmalloc(&["info", "/dev/shm"]), 1);
}

#[test]
fn a_pool_is_made_on_tmpfs_alone_and_over_nothing_that_exists() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("pool");
    let message = refused(vmalloc(&["create", path.to_str().unwrap(), "--capacity", "1M"]), 1);
    if message.contains("exists") {
        common::skip("a pool on a disk is refused", "the target folder is on tmpfs; move it");
    } else {
        assert!(message.contains("choose a place on tmpfs"), "{message}");
    }
    assert!(!path.exists());

    let place = Place::with_pool("twice", "1M");
    let token = place.put(b"still here");
    let message = refused(vmalloc(&["create", place.str(), "--capacity", "1M"]), 1);
    assert!(message.contains("exists already"), "{message}");
    assert_eq!(place.get(&token), b"still here");
}

#[test]
fn capacities_that_are_none_are_a_wrong_command_line() {
    let place = Place::new("capacity");
    for (capacity, says) in [
        ("", "not a whole number"),
        ("1.5G", "not a whole number"),
        ("12Q", "is no unit"),
        ("0", "out of range"),
        ("2T", "out of range"),
        ("99999999999999999999G", "more than 2^64"),
    ] {
        let message = refused(vmalloc(&["create", place.str(), "--capacity", capacity]), 2);
        assert!(message.contains(says), "{capacity}: {message}");
    }
    refused(vmalloc(&["create", place.str()]), 2);
    assert!(!place.path().exists());
    for capacity in ["4096", "64K", "1GiB"] {
        good(vmalloc(&["create", place.str(), "--capacity", capacity]));
        good(vmalloc(&["rm", place.str()]));
    }
}

/// Goal: a pool that is full says so and keeps what it has; after a free, there is room.
#[test]
fn a_full_pool_refuses_and_has_room_again_after_a_free() {
    let place = Place::with_pool("full", "4M");
    let first = place.put(&noise(3 << 20, 1));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(2 << 20, 2)).unwrap();
    let path = file.path().to_str().unwrap();
    for args in [["put", place.str(), path], ["put", place.str(), "/dev/zero"]] {
        let message = refused(vmalloc(&args), 1);
        assert!(message.contains("1 MiB free") && message.contains("vmalloc rm"), "{message}");
    }
    let message = refused(vmalloc_fed(&["put", place.str(), "-"], &noise(2 << 20, 2)), 1);
    assert!(message.contains("stdin has more than that"), "{message}");
    assert_eq!(place.info()["stats"]["areas"], 1);
    good(vmalloc(&["rm", place.str(), &first]));
    let token = text(vmalloc(&["put", place.str(), path]));
    assert!(place.get(&token) == noise(2 << 20, 2));
}

#[test]
fn a_pool_that_holds_something_is_removed_only_by_force() {
    let place = Place::with_pool("rm", "1M");
    let token = place.put(b"here");
    assert!(refused(vmalloc(&["rm", place.str()]), 1).contains("--force"));
    good(vmalloc(&["rm", place.str(), &token]));
    good(vmalloc(&["rm", place.str()]));
    assert!(!place.path().exists());

    let place = Place::with_pool("rm-force", "1M");
    let pool = Pool::open(place.path()).unwrap();
    assert!(refused(vmalloc(&["rm", place.str()]), 1).contains("1 living member"));
    let mut buf = pool.vmalloc(4096).unwrap();
    good(vmalloc(&["rm", place.str(), "--force"]));
    assert!(!place.path().exists());
    // Its member goes on.
    buf.fill(1);
    assert_eq!(pool.verify().unwrap().areas, 1);
    refused(vmalloc(&["rm", place.str(), "--force", &token]), 2);
}

#[test]
fn what_cannot_be_read_or_written_is_named() {
    let place = Place::with_pool("io", "1M");
    let message = refused(vmalloc(&["put", place.str(), "/nowhere/at/all"]), 1);
    assert!(message.starts_with("/nowhere/at/all: "), "{message}");
    assert!(refused(vmalloc(&["put", place.str(), "/dev"]), 1).contains("is a directory"));
    let token = place.put(b"x");
    let message = refused(vmalloc(&["get", place.str(), &token, "-o", "/nowhere/x"]), 1);
    assert!(message.starts_with("/nowhere/x: "), "{message}");
    // A token that could not be told would name an area that nobody can free.
    let full = || std::fs::File::create("/dev/full").unwrap();
    let put = command(&["put", place.str(), "/proc/version"]).stdout(full()).spawn().unwrap();
    assert!(refused(finish(put), 1).starts_with("standard output: "));
    let get = command(&["get", place.str(), &token]).stdout(full()).spawn().unwrap();
    assert!(refused(finish(get), 1).starts_with("standard output: "));
    assert_eq!(place.info()["stats"]["areas"], 1);
}

/// Goal: `head` may have enough, and nobody complains.
#[test]
fn a_reader_that_has_enough_ends_get_quietly() {
    let place = Place::with_pool("pipe", "8M");
    let token = place.put(&noise(4 << 20, 5));
    let mut child = command(&["get", place.str(), &token]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    let output = finish(child);
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

/// Goal: an area that is freed while somebody reads it is read to its end, and then goes.
/// Method: a getter that stands, since nobody empties its pipe.
#[test]
fn freeing_an_area_does_not_take_it_from_under_its_reader() {
    let place = Place::with_pool("reader", "8M");
    let bytes = noise(4 << 20, 6);
    let token = place.put(&bytes);
    let mut child = command(&["get", place.str(), &token]).spawn().unwrap();
    let mut head = [0; 100];
    child.stdout.as_mut().unwrap().read_exact(&mut head).unwrap();
    good(vmalloc(&["rm", place.str(), &token]));
    refused(vmalloc(&["get", place.str(), &token]), 1);
    let rest = good(finish(child));
    assert!(head[..] == bytes[..100] && rest[..] == bytes[100..]);
    assert_eq!(place.info()["stats"]["areas"], 0);
}

/// Goal: members that are killed, one while it puts and one while it gets, leave nothing wrong.
#[test]
fn members_killed_between_put_and_get_leave_nothing_wrong() {
    let place = Place::with_pool("killed", "16M");
    let bytes = noise(4 << 20, 7);
    let token = place.put(&bytes);
    let members = || place.info()["members"].as_array().unwrap().clone();

    // A putter that waits for more input is a member; a getter that nobody reads is attached.
    let mut putter = command(&["put", place.str(), "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut getter = command(&["get", place.str(), &token]).spawn().unwrap();
    getter.stdout.as_mut().unwrap().read_exact(&mut [0; 10]).unwrap();
    until("both are members", || (members().len() == 2).then_some(()), || ());
    for child in [&mut putter, &mut getter] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let dead = members();
    assert!(dead.len() == 2 && dead.iter().all(|member| member["alive"] == false), "{dead:?}");

    assert!(place.get(&token) == bytes);
    assert_eq!(members().len(), 0, "whoever came next recovered them");
    good(vmalloc(&["rm", place.str(), &token]));
    let stats = place.info()["stats"].clone();
    assert_eq!((&stats["areas"], &stats["parked_areas"]), (&0.into(), &0.into()), "{stats}");
    let pool = Pool::open(place.path()).unwrap();
    assert_eq!(pool.verify().unwrap().pages.0, 0);
}

/// Goal: a pool in which a dead member left an area counts as empty, once its area is recovered.
/// Method: stop a put in the middle of its reading, and kill it there.
#[test]
fn what_a_killed_put_left_does_not_keep_a_pool_from_being_removed() {
    let place = Place::with_pool("half", "256M");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(128 << 20, 8)).unwrap();
    let put = || {
        let mut put = command(&["put", place.str(), file.path().to_str().unwrap()]);
        let mut child = put.stdin(Stdio::null()).spawn().unwrap();
        let is_over = until("the put has an area", || over(&mut child, &place), || ());
        stop(child.id());
        let kind = place.info()["areas"][0]["kind"].as_str().unwrap_or("none").to_owned();
        let is_half = !is_over && ["building", "live"].contains(&kind.as_str());
        child.kill().unwrap();
        child.wait().unwrap();
        is_half
    };
    // A put that was over before it could be stopped left a frozen area: free that, try again.
    let mut tries = 0;
    while !put() {
        tries += 1;
        assert!(tries < 50, "the put was never caught in the middle");
        if let Some(token) = place.info()["areas"][0]["token"].as_str() {
            good(vmalloc(&["rm", place.str(), token]));
        }
    }
    assert_eq!(place.info()["stats"]["areas"], 1);
    good(vmalloc(&["rm", place.str()]));
    assert!(!place.path().exists());
}

/// Whether a put is over, once it has an area or is.
fn over(child: &mut Child, place: &Place) -> Option<bool> {
    let is_over = child.try_wait().unwrap().is_some();
    (is_over || place.info()["areas"].as_array().is_some_and(|areas| !areas.is_empty()))
        .then_some(is_over)
}
