//! iceoryx2: a service with one publisher, and its loans as blocks.

use super::roles::work;
use super::spot::{dir_of, remove};
use super::store::{Plan, Store, frag};
use crate::raw::written;
use iceoryx2::config::Config;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use std::mem::MaybeUninit;

type Sender = Publisher<ipc::Service, [u8], ()>;
type Loan = SampleMutUninit<ipc::Service, [MaybeUninit<u8>], ()>;

/// A node and its service, in a directory and under a prefix of their own.
pub struct Service<T: std::fmt::Debug + ZeroCopySend + 'static> {
    factory: PortFactory<ipc::Service, [T], ()>,
    // Held, so that the service has a node.
    _node: Node<ipc::Service>,
}

impl<T: std::fmt::Debug + ZeroCopySend + 'static> Service<T> {
    /// Opens the service of this name, or makes it.
    pub fn open(name: &str) -> Service<T> {
        set_log_level(LogLevel::Fatal);
        let mut config = Config::default();
        let dir = dir_of(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let dir = dir.to_string_lossy();
        config.global.set_root_path(&Path::new(dir.as_bytes()).expect("a path"));
        config.global.prefix = FileName::new(name.as_bytes()).expect("a file name");
        let node = NodeBuilder::new().config(&config).create::<ipc::Service>().expect("a node");
        let factory = node
            .service_builder(&"bench".try_into().expect("a name"))
            .publish_subscribe::<[T]>()
            .max_publishers(2)
            .max_subscribers(2)
            .open_or_create()
            .expect("a service");
        Service { factory, _node: node }
    }

    /// A publisher that loans up to `loans` slices at once, of `len` elements to begin with.
    pub fn publisher(&self, len: usize, loans: usize) -> Publisher<ipc::Service, [T], ()> {
        self.factory
            .publisher_builder()
            .initial_max_slice_len(len)
            .max_loaned_samples(loans)
            .allocation_strategy(AllocationStrategy::PowerOfTwo)
            .create()
            .expect("a publisher")
    }

    /// A subscriber.
    pub fn subscriber(&self) -> Subscriber<ipc::Service, [T], ()> {
        self.factory.subscriber_builder().create().expect("a subscriber")
    }
}

/// Loans as blocks.
struct Loans(Sender);

impl Store for Loans {
    type Block = Loan;

    fn touched(&mut self, bytes: usize) -> Option<Loan> {
        let mut loan = self.0.loan_slice_uninit(bytes).ok()?;
        loan.payload_mut().iter_mut().step_by(4096).for_each(|byte| {
            byte.write(1);
        });
        Some(loan)
    }
}

/// Plays a role.
pub fn child(role: &str, name: &str) {
    let service = Service::<u8>::open(name);
    match role {
        "work" => {
            let (publisher, subscriber) = (service.publisher(256 << 10, 2), service.subscriber());
            work(|bytes| {
                let mut loan = publisher.loan_slice_uninit(bytes).expect("a loan");
                loan.payload_mut()[0].write(1);
                written(loan).send().expect("a subscriber");
                // Dropped here: a subscriber may hold two.
                subscriber.receive().expect("a connection").expect("what was sent");
            });
        }
        "next" => {
            let (publisher, subscriber) = (service.publisher(64 << 10, 2), service.subscriber());
            publisher.loan_slice(64 << 10).expect("a loan").send().expect("a subscriber");
            subscriber.receive().expect("a connection").expect("what was sent");
            println!("leaked=0");
        }
        "frag" => {
            let plan = Plan::read();
            frag(&plan, |plan| Loans(service.publisher(4096, plan.sizes.len() + 1)));
            drop(service);
            remove(name);
        }
        _ => panic!("no such role: {role}"),
    }
}
