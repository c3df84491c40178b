//! The suite that every machine passes, on pools: one test a rule.
//!
//! What Linux cannot do, and why, stands with the abilities in [`crate::subject_linux`].

use crate::subject_linux::LinuxHost;
use crate::support::skip;
use vmalloc::Pool;

const HOST: LinuxHost = LinuxHost { framed: false };

vmalloc_sim::conformance_tests!(HOST);

/// The same suite on framed pools.
mod framed {
    use crate::subject_linux::LinuxHost;

    const HOST: LinuxHost = LinuxHost { framed: true };

    vmalloc_sim::conformance_tests!(HOST);
}

/// Goal: a rule that this kernel cannot be held to is not passed in silence.
#[test]
fn guard_pages_are_told_to_be_missing_where_they_are() {
    if !Pool::create(1 << 20).unwrap().info().guards {
        skip("guard_page_is_never_readable", "no MADV_GUARD_INSTALL", "needs Linux 6.13");
    }
}
