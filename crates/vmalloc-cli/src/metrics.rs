//! `vmalloc info --metrics`: pools as OpenMetrics text, for Prometheus and its relatives.
//!
//! A family is told once, with a sample for each pool; a pool that is listed under two paths is
//! told once, too, since its number is the label. Counters are the members', living and dead, and
//! grow as long as the pool lives.
//!
//! Format: OpenMetrics 1.0.

use crate::target::Looked;
use std::collections::BTreeMap;
use std::io::{self, Write};
use vmalloc::core::{Area, Kind};
use vmalloc::{Info, MemberInfo};

/// What of a pool there is to tell.
struct Pool {
    path: String,
    info: Info,
    areas: Vec<Area>,
    members: Vec<MemberInfo>,
}

/// A family with one sample a pool.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: fn(&Pool) -> u64,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Pool) -> u64) -> Family {
    Family { name, help, kind: "gauge", value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Pool) -> u64) -> Family {
    Family { name, help, kind: "counter", value }
}

#[rustfmt::skip] // A table reads as one row a family.
const FAMILIES: &[Family] = &[
    gauge("capacity_bytes", "What the pool may hold.", |p| p.info.capacity_bytes),
    gauge("limit_bytes", "What it may hold now.", |p| p.info.limit_bytes),
    gauge("stitched_vmas_max", "VMAs that stitched views and runs of framed pools of one process may take.", |p| p.info.stitched_vmas_max as u64),
    gauge("committed_bytes", "Areas, parked ones too.", |p| p.info.committed_bytes),
    gauge("resident_bytes", "Memory that the system holds for it, tables too.", |p| p.info.resident_bytes),
    gauge("tables_bytes", "Tables that were committed when it was made.", |p| p.info.tables_bytes),
    gauge("window_bytes", "Addresses.", |p| p.info.stats.window.bytes()),
    gauge("holes_bytes", "Addresses that nobody owns.", |p| p.info.stats.holes.bytes()),
    gauge("largest_hole_bytes", "The largest run of them.", |p| p.info.stats.largest_hole.bytes()),
    gauge("made_timestamp_seconds", "When it was made.", |p| p.info.made_unix_s),
    gauge("members_alive", "Members that live.", |p| p.members.iter().filter(|m| m.alive == Some(true)).count() as u64),
    gauge("members_dead", "Members that died and are not recovered yet.", |p| p.members.iter().filter(|m| m.alive == Some(false)).count() as u64),
    counter("allocs", "Allocations made.", |p| p.info.stats.allocs),
    counter("frees", "Frees.", |p| p.info.stats.frees),
    counter("revives", "Allocations served from the lazy list.", |p| p.info.stats.revives),
    counter("purged", "Areas purged.", |p| p.info.stats.purged),
    counter("flushes", "Shootdowns.", |p| p.info.stats.flushes),
    counter("attaches", "Attachments.", |p| p.info.stats.attaches),
    counter("failures", "Allocations refused.", |p| p.info.stats.failures),
    counter("recovered", "Areas that recovery took from the dead.", |p| p.info.stats.recovered),
];

/// The states that areas are counted by.
const KINDS: [Kind; 8] = [
    Kind::Building,
    Kind::Live,
    Kind::Frozen,
    Kind::Shared,
    Kind::Given,
    Kind::Dying,
    Kind::Parked,
    Kind::Purging,
];

/// Prints them all.
pub fn print(found: &[Looked], out: &mut impl Write) -> io::Result<()> {
    let pools: BTreeMap<u32, Pool> = found
        .iter()
        .map(|looked| {
            let (path, pool) = (looked.path.display().to_string(), &looked.pool);
            let (info, areas, members) = (pool.info(), pool.areas(), pool.members());
            (info.id, Pool { path, info, areas, members })
        })
        .collect();
    head(out, "vmalloc_pool", "info", "A pool of shared memory.")?;
    for (id, pool) in &pools {
        writeln!(out, "vmalloc_pool_info{{pool=\"{id:08x}\",path=\"{}\"}} 1", label(&pool.path))?;
    }
    for Family { name, help, kind, value } in FAMILIES {
        head(out, &format!("vmalloc_{name}"), kind, help)?;
        let total = if *kind == "counter" { "_total" } else { "" };
        for (id, pool) in &pools {
            writeln!(out, "vmalloc_{name}{total}{{pool=\"{id:08x}\"}} {}", value(pool))?;
        }
    }
    let used = |m: &MemberInfo| Some(m.used_bytes);
    by_member(out, &pools, "member_used_bytes", "Areas of a member's own.", used)?;
    by_member(out, &pools, "member_quota_bytes", "What a member may hold.", |m| m.quota_bytes)?;
    by_state(out, &pools, "areas", "Areas, by state.", |_| 1)?;
    by_state(out, &pools, "area_bytes", "Pages of areas, by state.", |a| a.pages.len.bytes())?;
    writeln!(out, "# EOF")
}

/// A sample for each member that has such a number.
fn by_member(
    out: &mut impl Write,
    pools: &BTreeMap<u32, Pool>,
    name: &str,
    help: &str,
    value: impl Fn(&MemberInfo) -> Option<u64>,
) -> io::Result<()> {
    head(out, &format!("vmalloc_{name}"), "gauge", help)?;
    for (id, pool) in pools {
        for member in &pool.members {
            let number = member.number;
            if let Some(value) = value(member) {
                writeln!(out, "vmalloc_{name}{{pool=\"{id:08x}\",member=\"{number}\"}} {value}")?;
            }
        }
    }
    Ok(())
}

fn by_state(
    out: &mut impl Write,
    pools: &BTreeMap<u32, Pool>,
    name: &str,
    help: &str,
    weight: fn(&Area) -> u64,
) -> io::Result<()> {
    head(out, &format!("vmalloc_{name}"), "gauge", help)?;
    for (id, pool) in pools {
        for kind in KINDS {
            let areas = pool.areas.iter().filter(|area| area.kind == kind);
            let sum = areas.map(weight).fold(0, u64::saturating_add);
            let state = crate::top::name(kind);
            writeln!(out, "vmalloc_{name}{{pool=\"{id:08x}\",state=\"{state}\"}} {sum}")?;
        }
    }
    Ok(())
}

fn head(out: &mut impl Write, name: &str, kind: &str, help: &str) -> io::Result<()> {
    writeln!(out, "# TYPE {name} {kind}")?;
    let unit = name.ends_with("_bytes").then_some("bytes");
    let unit = unit.or(name.ends_with("_seconds").then_some("seconds"));
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {help}")
}

/// The value of a label, escaped as the format has it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
