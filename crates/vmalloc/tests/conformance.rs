//! The suite that every machine passes, on pools.

use crate::subject::PoolHost;

vmalloc_sim::conformance_tests!(PoolHost);
