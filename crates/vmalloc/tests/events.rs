//! The feature `tracing`: what happens in a pool is told to whoever subscribes.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use vmalloc::{Pool, Request};

/// Keeps each event of the target `vmalloc` as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "vmalloc"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Goal: each verb tells what it did, in order, with the pool, the member and the area.
#[test]
fn each_verb_is_told_to_a_subscriber() {
    let lines = Lines::default();
    let id = tracing::subscriber::with_default(lines.clone(), || {
        let pool = Pool::options().members(2).create(1 << 20).unwrap();
        let mut buf = pool.alloc(&Request::bytes(5000).zeroed()).unwrap();
        buf.resize(3000).unwrap();
        let frozen = buf.freeze().unwrap();
        let other = Pool::open(pool.share_path()).unwrap();
        let seen = other.attach(&frozen.token()).unwrap();
        drop(seen);
        frozen.free().unwrap();
        pool.vmalloc(8 << 20).unwrap_err();
        let token = pool.vmalloc(10).unwrap().give().unwrap();
        drop(other.take(&token).unwrap());
        pool.purge().unwrap();
        pool.info().id
    });
    let lines = lines.0.lock().unwrap();
    let told: Vec<&str> = lines.iter().filter_map(|line| line.split('"').nth(1)).collect();
    let expected = [
        "join", "alloc", "resize", "freeze", "join", "attach", "detach", "free", "detach",
        "refused", "alloc", "give", "take", "free", "purge", "leave", "leave",
    ];
    assert_eq!(told, expected, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(&format!("pool={id:08x} "))), "{lines:#?}");
    assert!(
        lines[1].contains("member=1 area=") && lines[1].contains("bytes=5000 "),
        "{}",
        lines[1]
    );
    assert!(lines[5].contains("member=2 area="), "{}", lines[5]);
    assert!(lines[9].contains("bytes=8388608 "), "{}", lines[9]);
}
