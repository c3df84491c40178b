// Entered by QEMU at EL1, MMU off.
.section .text.entry, "ax"
.globl _start, _start_other
_start:
    adrp x0, __stack0
    mov sp, x0
    bl mmu_on
    bl rust_start
_start_other:
    adrp x0, __stack1
    mov sp, x0
    bl mmu_on
    bl rust_start_other
mmu_on:
    mov x0, #(3 << 20)          // CPACR: the compiler uses vector registers
    msr cpacr_el1, x0
    ldr x0, =0x0444bbff         // Aarch64::MAIR
    msr mair_el1, x0
    // 48 bits and 4 KiB in both halves, inner shareable, write-back walks, 40 bits of physical address
    ldr x0, =((16 << 16) | 16 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 24) | (1 << 26) | (3 << 28) | (2 << 30) | (2 << 32))
    msr tcr_el1, x0
    adrp x0, low_root
    msr ttbr0_el1, x0
    adrp x0, high_root
    msr ttbr1_el1, x0
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    dsb ish
    isb
    tlbi vmalle1
    dsb nsh
    isb
    mrs x0, sctlr_el1
    mov x1, #0x1005             // M, C, I
    orr x0, x0, x1
    bic x0, x0, #2              // no alignment checks
    msr sctlr_el1, x0
    isb
    ret

.section .text
// On the stack when trap() is called: x0 … x30, elr, spsr, sp_el0, kind; q0 … q31.
.macro vector kind
.balign 0x80
    sub sp, sp, #800
    stp x0, x1, [sp]
    mov x0, #\kind
    b trap_common
.endm
.balign 0x800
vectors:
    vector 16
    vector 16
    vector 16
    vector 16
    vector 0                    // this level: a fault
    vector 1                    // this level: an interrupt
    vector 16
    vector 16
    vector 2                    // user: a fault or a call
    vector 3                    // user: an interrupt
    vector 16
    vector 16
    vector 16
    vector 16
    vector 16
    vector 16
.balign 0x80
trap_common:
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    str x30, [sp, #240]
    mrs x1, elr_el1
    mrs x2, spsr_el1
    stp x1, x2, [sp, #248]
    mrs x1, sp_el0
    stp x1, x0, [sp, #264]
    stp q0, q1, [sp, #288]
    stp q2, q3, [sp, #320]
    stp q4, q5, [sp, #352]
    stp q6, q7, [sp, #384]
    stp q8, q9, [sp, #416]
    stp q10, q11, [sp, #448]
    stp q12, q13, [sp, #480]
    stp q14, q15, [sp, #512]
    stp q16, q17, [sp, #544]
    stp q18, q19, [sp, #576]
    stp q20, q21, [sp, #608]
    stp q22, q23, [sp, #640]
    stp q24, q25, [sp, #672]
    stp q26, q27, [sp, #704]
    stp q28, q29, [sp, #736]
    stp q30, q31, [sp, #768]
    mov x0, sp
    bl trap
    ldp x1, x2, [sp, #248]
    msr elr_el1, x1
    msr spsr_el1, x2
    ldr x1, [sp, #264]
    msr sp_el0, x1
    ldp q0, q1, [sp, #288]
    ldp q2, q3, [sp, #320]
    ldp q4, q5, [sp, #352]
    ldp q6, q7, [sp, #384]
    ldp q8, q9, [sp, #416]
    ldp q10, q11, [sp, #448]
    ldp q12, q13, [sp, #480]
    ldp q14, q15, [sp, #512]
    ldp q16, q17, [sp, #544]
    ldp q18, q19, [sp, #576]
    ldp q20, q21, [sp, #608]
    ldp q22, q23, [sp, #640]
    ldp q24, q25, [sp, #672]
    ldp q26, q27, [sp, #704]
    ldp q28, q29, [sp, #736]
    ldp q30, q31, [sp, #768]
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x19, [sp, #144]
    ldp x20, x21, [sp, #160]
    ldp x22, x23, [sp, #176]
    ldp x24, x25, [sp, #192]
    ldp x26, x27, [sp, #208]
    ldp x28, x29, [sp, #224]
    ldr x30, [sp, #240]
    ldp x0, x1, [sp]
    add sp, sp, #800
    eret

// enter_user(pc, a, b, value): to EL0. leave_user: where trap() sends the CPU afterwards; the stack of
// EL1 is as it was.
.globl enter_user, leave_user
enter_user:
    msr daifset, #2
    sub sp, sp, #96
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    msr elr_el1, x0
    msr spsr_el1, xzr           // EL0, interrupts on
    mov x0, x1
    mov x1, x2
    mov x2, x3
    eret
leave_user:
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    add sp, sp, #96
    ret

// An access that may fault: trap() goes on at probe_failed then. The result in x0, failure in x1.
.globl probe_load, probe_store, probe_failed
probe_load:
    ldr x0, [x0]
    mov x1, #0
    ret
probe_store:
    str x1, [x0]
    mov x1, #0
    ret
probe_failed:
    mov x1, #1
    ret

// What user code does: loads a word, stores a value, and says what it has loaded.
.balign 16
.globl user_program, user_program_end
user_program:
    ldr x3, [x0]
    str x2, [x1]
    mov x0, x3
    svc #0
user_program_end:
// What a module does: calls allocate(bytes) and returns the address.
.balign 16
.globl module_program, module_program_end
module_program:
    mov x2, x0
    mov x0, x1
    br x2
module_program_end:

.section .data
.balign 4096
.globl low_root, high_root
low_root:                       // identity: devices in the first GiB, RAM in the second
    .quad gigabytes + 3
    .skip 4088
gigabytes:
    .quad 0x0060000000000000 | (1 << 10) | (3 << 2) | 1
    .quad 0x0040000000000000 | 0x40000000 | (1 << 10) | (3 << 8) | 1
    .skip 4080
high_root:                      // the windows
    .skip 4096
