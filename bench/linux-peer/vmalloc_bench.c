// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The workloads of kernel/src/bench.rs on Linux: the same names, sizes, counts, order and random
 * numbers, a line each. The counter is the TSC: under `-icount shift=0` a tick is an instruction,
 * which a run of `nop` proves first.
 *
 * All is run twice: first counted, then again with a probe at flush_tlb_kernel_range(), which counts
 * the shootdowns and would add to the instructions.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/msr.h>

#define HELD 15000
#define RING 10240
#define RING_STRIDE 7919

static atomic64_t flushes;
static u64 state;
static struct page *pages_of[100];
static struct page *ring[RING];
static u64 at;

static int on_flush(struct kprobe *probe, struct pt_regs *regs)
{
	atomic64_inc(&flushes);
	return 0;
}

static struct kprobe probe = {
	.symbol_name = "flush_tlb_kernel_range",
	.pre_handler = on_flush,
};

/* SplitMix64, as vmalloc_sim::Random. */
static u64 below(u64 end)
{
	u64 z = state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % end;
}

static int do_vmalloc(u64 pages)
{
	u8 *at = vmalloc(pages * PAGE_SIZE);

	if (!at)
		return -ENOMEM;
	WRITE_ONCE(*at, 1);
	vfree(at);
	return 0;
}

static int do_random(u64 pages)
{
	return do_vmalloc(1 + below(1000));
}

static int do_vmap(u64 pages)
{
	u8 *at = vmap(pages_of, pages, VM_MAP, PAGE_KERNEL);

	if (!at)
		return -ENOMEM;
	WRITE_ONCE(*at, 1);
	vunmap(at);
	return 0;
}

/* Other pages each time, none of which was shown lately. */
static int do_vmap_fresh(u64 pages)
{
	struct page *taken[10];
	u64 i;
	u8 *area;

	for (i = 0; i < pages; i++) {
		at = (at + RING_STRIDE) % RING;
		taken[i] = ring[at];
	}
	area = vmap(taken, pages, VM_MAP, PAGE_KERNEL);
	if (!area)
		return -ENOMEM;
	WRITE_ONCE(*area, 1);
	vunmap(area);
	return 0;
}

/* The frame allocator's share of vmalloc. */
static int do_frames(u64 pages)
{
	struct page *taken[10];
	u64 i;

	for (i = 0; i < pages; i++) {
		taken[i] = alloc_page(GFP_KERNEL);
		if (!taken[i])
			return -ENOMEM;
	}
	for (i = 0; i < pages; i++)
		__free_page(taken[i]);
	return 0;
}

static int repeat(u64 count, u64 pages, int (*run)(u64 pages))
{
	u64 i;
	int error;

	for (i = 0; i < count; i++) {
		error = run(pages);
		if (error)
			return error;
		if (!(i & 255))
			cond_resched();
	}
	return 0;
}

static int measure(const char *name, u64 pages, u64 count, int (*run)(u64 pages))
{
	u64 start, instructions, before;
	int error = repeat(count / 4, pages, run);

	if (error)
		return error;
	before = atomic64_read(&flushes);
	start = rdtsc();
	error = repeat(count, pages, run);
	instructions = rdtsc() - start;
	if (error)
		return error;
	pr_info("bench %s pages=%llu count=%llu instructions=%llu shootdowns=%llu\n", name, pages, count,
		instructions, (u64)atomic64_read(&flushes) - before);
	return 0;
}

static int busy(void)
{
	void **held = kvcalloc(HELD, sizeof(*held), GFP_KERNEL);
	int i, error = held ? 0 : -ENOMEM;

	for (i = 0; !error && i < HELD; i++) {
		held[i] = vmalloc(PAGE_SIZE);
		if (!held[i])
			error = -ENOMEM;
	}
	error = error ?: measure("busy_vmalloc", 1, 20000, do_vmalloc);
	error = error ?: measure("busy_vmalloc", 10, 20000, do_vmalloc);
	for (i = 0; held && i < HELD; i++)
		vfree(held[i]);
	kvfree(held);
	return error;
}

static int all(void)
{
	int error;

	error = measure("vmalloc", 1, 20000, do_vmalloc);
	error = error ?: measure("vmalloc", 10, 20000, do_vmalloc);
	error = error ?: measure("vmalloc", 100, 2000, do_vmalloc);
	state = 1;
	error = error ?: measure("vmalloc_random_1000", 0, 1000, do_random);
	error = error ?: measure("vmap", 1, 20000, do_vmap);
	error = error ?: measure("vmap", 10, 20000, do_vmap);
	error = error ?: measure("vmap_fresh", 1, 20000, do_vmap_fresh);
	error = error ?: measure("vmap_fresh", 10, 20000, do_vmap_fresh);
	error = error ?: measure("frames", 1, 20000, do_frames);
	error = error ?: measure("frames", 10, 20000, do_frames);
	return error ?: busy();
}

/* A thousand instructions, so that a tick of the counter is known to be one. */
static void calibrate(void)
{
	u64 start = rdtsc();

	asm volatile(".rept 1000\n nop\n .endr");
	pr_info("calibrate ticks=%llu\n", rdtsc() - start);
}

static int __init vmalloc_bench_init(void)
{
	int i, error = 0;

	for (i = 0; i < ARRAY_SIZE(pages_of); i++) {
		pages_of[i] = alloc_page(GFP_KERNEL);
		if (!pages_of[i])
			return -ENOMEM;
	}
	for (i = 0; i < RING; i++) {
		ring[i] = alloc_page(GFP_KERNEL);
		if (!ring[i])
			return -ENOMEM;
	}
	/* What the boot left to do is done first; it costs no time where sleep is skipped. */
	ssleep(20);
	calibrate();
	pr_info("pass instructions\n");
	error = all();
	if (!error) {
		error = register_kprobe(&probe);
		pr_info("pass shootdowns\n");
		error = error ?: all();
	}
	pr_info("ended %d\n", error);
	return error;
}

module_init(vmalloc_bench_init);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Instructions and shootdowns of vmalloc and vmap");
