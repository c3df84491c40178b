//! The cases, in order: the suite's rules, and what only real page tables, TLBs and interrupts show.

mod interrupts;
mod later;
mod percpu;
mod sharing;
mod stale;
mod stress;

use crate::subject::KernelHost;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A case: its name, and what panics if it is not true.
pub type Case = (&'static str, Box<dyn Fn()>);

/// What the other CPU does in [`crate::smp::Job::Beside`]: a function, as a number.
static BESIDE: AtomicUsize = AtomicUsize::new(0);

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for rule in vmalloc_sim::RULES {
        let check = || vmalloc_sim::conformance::check(&KernelHost, rule.name);
        cases.push((rule.name, Box::new(check)));
    }
    let own: [(&'static str, fn()); 13] = [
        ("stale_translation_shows_without_a_shootdown", stale::shows_without_a_shootdown),
        ("no_stale_translation_shows_after_a_shootdown", stale::never_shows_after_a_shootdown),
        ("freed_page_faults_on_both_cpus_once_purged", stale::freed_page_faults_on_both_cpus),
        ("guard_page_faults_at_its_address", stale::guard_page_faults_at_its_address),
        ("large_area_has_large_leaves_and_is_split_when_it_shrinks", stale::large_leaves),
        ("two_user_spaces_write_and_read_one_area", sharing::two_user_spaces_share_an_area),
        ("two_user_spaces_write_and_read_one_device", sharing::two_user_spaces_share_a_device),
        ("user_write_to_a_read_only_area_faults", sharing::read_only_faults),
        ("vfree_is_legal_in_an_interrupt_handler", interrupts::vfree_in_a_handler),
        ("purge_runs_while_the_other_cpu_allocates", interrupts::purge_beside_allocations),
        ("module_loads_allocates_and_unloads", sharing::module),
        ("both_cpus_allocate_at_once", stress::both_cpus_allocate),
        ("vmallocinfo_lists_what_there_is", stress::vmallocinfo),
    ];
    cases.extend(own.map(|(name, case)| (name, Box::new(case) as Box<dyn Fn()>)));
    cases.extend(stress::cases());
    cases
}

/// What the interrupt that a CPU sends to itself does.
pub fn on_interrupt() {
    interrupts::on_interrupt();
}

/// What the other CPU does beside this one.
pub fn beside() {
    match BESIDE.load(Ordering::Acquire) {
        1 => interrupts::allocate_beside(),
        3 => later::look_beside(),
        _ => stress::allocate_beside(),
    }
}
