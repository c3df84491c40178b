//! iceoryx2: a publisher here, a subscriber in the other process.

use crate::peers::iceoryx::Service;
use crate::peers::spot::remove;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::ipc;

/// A publisher with its service.
pub struct Loans {
    publisher: Publisher<ipc::Service, [u64], ()>,
    // After its publisher, and before its directory.
    _service: Service<u64>,
    _dir: Dir,
}

/// Removed when all is closed.
struct Dir(String);

impl Drop for Dir {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Loans {
    /// A service of this name, for slices of so many bytes.
    pub fn new(name: &str, bytes: usize) -> Loans {
        let service = Service::open(name);
        let publisher = service.publisher(bytes / 8, 2);
        Loans { publisher, _service: service, _dir: Dir(name.to_owned()) }
    }

    /// Loans a slice, fills it and sends it.
    pub fn send(&mut self, bytes: usize, turn: u64) {
        let loan = self.publisher.loan_slice_uninit(bytes / 8).expect("a loan");
        let receivers = loan.write_from_fn(|_| turn).send().expect("a connection");
        assert_eq!(receivers, 1, "the other process");
    }
}

/// The other side.
pub struct Samples {
    subscriber: Subscriber<ipc::Service, [u64], ()>,
    _service: Service<u64>,
}

impl Samples {
    /// Of the service of this name.
    pub fn new(name: &str) -> Samples {
        let service = Service::open(name);
        Samples { subscriber: service.subscriber(), _service: service }
    }

    /// The sum of what was sent, which is let go of.
    pub fn sum(&self) -> u64 {
        let sample = self.subscriber.receive().expect("a connection").expect("what was sent");
        sample.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word))
    }
}
