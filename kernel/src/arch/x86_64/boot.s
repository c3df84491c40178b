# PVH entry: 32-bit protected mode, flat segments, paging off, ebx = hvm_start_info.
.section .note.Xen, "a", @note
.balign 4
.long 4, 4, 18                  # name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.long _start

.section .text.entry, "ax"
.code32
.globl _start
_start:
    cld
    movl $pdpt + 3, pml4        # identity map of 4 GiB with 2 MiB pages
    mov $pd + 3, %eax
    mov $pdpt, %edi
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 1b
    mov $0x83, %eax
    mov $pd, %edi
    mov $2048, %ecx
2:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 2b
    mov $stack0_top, %esp
    mov $rust_start, %ebp
to_long:                        # both CPUs: esp = stack, ebp = 64-bit entry, ebx = its argument
    mov $0xa0, %eax             # CR4: PAE, PGE
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       # EFER: LME, NXE
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x277, %ecx            # the page attribute table: X86_64::PAT
    mov $0x00070106, %eax
    mov $0x04070506, %edx
    wrmsr
    mov $0x80010001, %eax       # CR0: PG, WP, PE
    mov %eax, %cr0
    lgdt gdtr
    ljmp $8, $long64
.code64
long64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebx, %edi
    mov %ebp, %eax
    call *%rax
    ud2

# Copied to 0x8000; the second CPU starts here in real mode, cs = 0x800.
.code16
.globl ap_start, ap_start_end
ap_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl ap_gdtr - ap_start + 0x8000
    mov $1, %eax
    mov %eax, %cr0
    ljmpl $24, $ap32
.balign 8
ap_gdtr: .word 31
    .long gdt
ap_start_end:
.code32
ap32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack1_top, %esp
    mov $rust_start_other, %ebp
    jmp to_long
.code64

# Traps. On the stack when trap() is called, from rsp up: r15 … rax, vector, error, rip, cs, rflags, rsp, ss.
.macro stub n, has_error
.balign 16
    .if \has_error == 0
    push $0
    .endif
    push $\n
    jmp trap_common
.endm
.section .text
.balign 16
.globl trap_stubs
trap_stubs:                     # 16 bytes each, vectors 0 to 31, then 0x80, 0xf0, 0xf1, 0xf2, 0xff
.set i, 0
.rept 32
    .if i == 8 || (i >= 10 && i <= 14) || i == 17
    stub i, 1
    .else
    stub i, 0
    .endif
.set i, i+1
.endr
    stub 0x80, 0
    stub 0xf0, 0
    stub 0xf1, 0
    stub 0xf2, 0
    stub 0xff, 0
trap_common:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    call trap
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

# enter_user(rip, a, b, value, &rsp0): to ring 3, with a, b, value in rdi, rsi, rdx. leave_user is
# where trap() sends the CPU afterwards, on the stack that was kept in rsp0.
.globl enter_user, leave_user
enter_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%r8)
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    push $0x23
    push $0
    push $0x202
    push $0x2b
    push %rax
    iretq
leave_user:
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

# An access that may fault: trap() goes on at probe_failed then. The result in rax, failure in rdx.
.globl probe_load, probe_store, probe_failed
probe_load:
    mov (%rdi), %rax
    xor %edx, %edx
    ret
probe_store:
    mov %rsi, (%rdi)
    xor %edx, %edx
    ret
probe_failed:
    mov $1, %edx
    ret

# What user code does: loads a word, stores a value, and says what it has loaded.
.balign 16
.globl user_program, user_program_end
user_program:
    mov (%rdi), %rax
    mov %rdx, (%rsi)
    int $0x80
user_program_end:
# What a module does: calls allocate(bytes) and returns the address.
.balign 16
.globl module_program, module_program_end
module_program:
    mov %rdi, %rax
    mov %rsi, %rdi
    jmp *%rax
module_program_end:

.section .rodata
.balign 8
gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff, 0x00cf9a000000ffff   # null, code64, data, code32
gdtr: .word 31
    .quad gdt

.section .bss
.balign 4096
.globl pml4
pml4: .skip 4096
pdpt: .skip 4096
pd:   .skip 16384
.skip 131072
stack0_top:
.skip 131072
stack1_top:
