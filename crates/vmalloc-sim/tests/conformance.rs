//! The suite that every machine passes, on the simulated machine: once with TLBs that forget
//! nothing, and once with small ones that evict.

use vmalloc_sim::{SimHost, TlbSize};

const HOST: SimHost = SimHost { tlb: TlbSize::Unlimited };

vmalloc_sim::conformance_tests!(HOST);

/// Goal: nothing depends on an entry being there.
#[test]
fn every_rule_holds_with_tlbs_of_16_entries() {
    vmalloc_sim::conformance::check_all(&SimHost { tlb: TlbSize::DirectMapped(16) });
}
