# Entered by OpenSBI in supervisor mode, a0 = hart, a1 = device tree, paging off.
.section .text.entry, "ax"
.globl _start, _start_other
_start:
    la sp, __stack0
    mv tp, a0
    # Root entry 0: a table of 1 GiB leaves, identity: devices and RAM.
    la t0, root
    la t1, gigabytes
    srli t2, t1, 2
    ori t2, t2, 1
    sd t2, 0(t0)
    li t3, 0xef                 # V R W X G A D
    li t4, 0x10000000           # one GiB further, in an entry
    li t5, 512
1:  sd t3, 0(t1)
    add t3, t3, t4
    addi t1, t1, 8
    addi t5, t5, -1
    bnez t5, 1b
    call paging_on
    mv a0, a1
    call rust_start
_start_other:
    la sp, __stack1
    mv tp, a0
    call paging_on
    call rust_start_other
paging_on:
    la t0, root
    srli t0, t0, 12
    li t1, 9
    slli t1, t1, 60             # Sv48
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    la t0, trap_entry
    csrw stvec, t0
    csrw sscratch, zero
    csrwi sie, 2                # software interrupts
    ret

.section .text
# sscratch: 0 in the kernel; in user mode, the kernel's stack. tp is the hart's number: user code of
# this kernel leaves it alone.
.balign 4
trap_entry:
    csrrw sp, sscratch, sp
    bnez sp, 1f
    csrr sp, sscratch
1:  addi sp, sp, -272
    sd x1, 8(sp)
    sd x3, 24(sp)
    sd x4, 32(sp)
    sd x5, 40(sp)
    sd x6, 48(sp)
    sd x7, 56(sp)
    sd x8, 64(sp)
    sd x9, 72(sp)
    sd x10, 80(sp)
    sd x11, 88(sp)
    sd x12, 96(sp)
    sd x13, 104(sp)
    sd x14, 112(sp)
    sd x15, 120(sp)
    sd x16, 128(sp)
    sd x17, 136(sp)
    sd x18, 144(sp)
    sd x19, 152(sp)
    sd x20, 160(sp)
    sd x21, 168(sp)
    sd x22, 176(sp)
    sd x23, 184(sp)
    sd x24, 192(sp)
    sd x25, 200(sp)
    sd x26, 208(sp)
    sd x27, 216(sp)
    sd x28, 224(sp)
    sd x29, 232(sp)
    sd x30, 240(sp)
    sd x31, 248(sp)
    csrr t0, sscratch
    sd t0, 16(sp)
    csrw sscratch, zero
    csrr t0, sepc
    sd t0, 256(sp)
    csrr t0, sstatus
    sd t0, 264(sp)
    mv a0, sp
    call trap
    ld t0, 256(sp)
    csrw sepc, t0
    ld t0, 264(sp)
    csrw sstatus, t0
    andi t0, t0, 0x100          # SPP: back to the kernel?
    bnez t0, 2f
    addi t0, sp, 272
    csrw sscratch, t0
2:  ld x1, 8(sp)
    ld x3, 24(sp)
    ld x4, 32(sp)
    ld x5, 40(sp)
    ld x6, 48(sp)
    ld x7, 56(sp)
    ld x8, 64(sp)
    ld x9, 72(sp)
    ld x10, 80(sp)
    ld x11, 88(sp)
    ld x12, 96(sp)
    ld x13, 104(sp)
    ld x14, 112(sp)
    ld x15, 120(sp)
    ld x16, 128(sp)
    ld x17, 136(sp)
    ld x18, 144(sp)
    ld x19, 152(sp)
    ld x20, 160(sp)
    ld x21, 168(sp)
    ld x22, 176(sp)
    ld x23, 184(sp)
    ld x24, 192(sp)
    ld x25, 200(sp)
    ld x26, 208(sp)
    ld x27, 216(sp)
    ld x28, 224(sp)
    ld x29, 232(sp)
    ld x30, 240(sp)
    ld x31, 248(sp)
    ld x2, 16(sp)
    sret

# enter_user(pc, a, b, value, &stack): to user mode. leave_user: where trap() sends the hart afterwards,
# on the stack that was kept.
.globl enter_user, leave_user
enter_user:
    csrci sstatus, 2
    addi sp, sp, -112
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    sd s2, 24(sp)
    sd s3, 32(sp)
    sd s4, 40(sp)
    sd s5, 48(sp)
    sd s6, 56(sp)
    sd s7, 64(sp)
    sd s8, 72(sp)
    sd s9, 80(sp)
    sd s10, 88(sp)
    sd s11, 96(sp)
    sd sp, 0(a4)
    csrw sscratch, sp
    csrw sepc, a0
    li t0, 0x100                # SPP = user
    csrc sstatus, t0
    li t0, 0x20                 # SPIE: interrupts on there
    csrs sstatus, t0
    mv a0, a1
    mv a1, a2
    mv a2, a3
    sret
leave_user:
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    ld s2, 24(sp)
    ld s3, 32(sp)
    ld s4, 40(sp)
    ld s5, 48(sp)
    ld s6, 56(sp)
    ld s7, 64(sp)
    ld s8, 72(sp)
    ld s9, 80(sp)
    ld s10, 88(sp)
    ld s11, 96(sp)
    addi sp, sp, 112
    ret

# An access that may fault: trap() goes on at probe_failed then. The result in a0, failure in a1.
.globl probe_load, probe_store, probe_failed
probe_load:
    ld a0, 0(a0)
    li a1, 0
    ret
probe_store:
    sd a1, 0(a0)
    li a1, 0
    ret
probe_failed:
    li a1, 1
    ret

# What user code does: loads a word, stores a value, and says what it has loaded.
.balign 16
.globl user_program, user_program_end
user_program:
    ld a3, 0(a0)
    sd a2, 0(a1)
    mv a0, a3
    ecall
user_program_end:
# What a module does: calls allocate(bytes) and returns the address.
.balign 16
.globl module_program, module_program_end
module_program:
    mv t0, a0
    mv a0, a1
    jr t0
module_program_end:

.section .bss
.balign 4096
.globl root
root: .skip 4096
gigabytes: .skip 4096
