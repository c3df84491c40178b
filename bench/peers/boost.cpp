// boost.interprocess in the roles of bench/src/peers.rs: a managed_shared_memory is the pool.
//
//   boost make NAME BYTES     makes the segment; prints its free bytes
//   boost work NAME           allocates, writes and frees, until it is killed
//   boost next NAME FREE      uses the segment once; prints the bytes that are missing of FREE
//   boost drop NAME           removes it
//   boost frag NAME           the plan comes on standard input
//   boost share NAME BYTES    cycles with a process of its own; counts come on standard input

#include <boost/interprocess/managed_shared_memory.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <new>
#include <random>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace ipc = boost::interprocess;
using Segment = ipc::managed_shared_memory;
using Clock = std::chrono::steady_clock;

static constexpr size_t PAGE = 4096;

// A number of kilobytes from /proc/self/status, in bytes.
static uint64_t status(const char *field) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long kib = 0;
    size_t len = strlen(field);
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, len) == 0) sscanf(line + len + 1, "%llu", &kib);
    if (file) fclose(file);
    return kib << 10;
}

static int descriptors() {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) count++;
    if (dir) closedir(dir);
    return count;
}

static void touch(void *block, size_t bytes) {
    volatile char *at = static_cast<char *>(block);
    for (size_t i = 0; i < bytes; i += PAGE) at[i] = 1;
}

static int work(const char *name) {
    Segment segment(ipc::open_only, name);
    std::mt19937_64 rng(getpid());
    std::vector<void *> live;
    bool is_told = false;
    for (;;) {
        if (live.size() == 16) {
            size_t at = rng() % live.size();
            segment.deallocate(live[at]);
            live[at] = live.back();
            live.pop_back();
        }
        void *block = segment.allocate(PAGE << rng() % 7, std::nothrow);
        if (block) {
            *static_cast<volatile char *>(block) = 1;
            live.push_back(block);
        }
        if (!is_told) {
            puts("ready");
            fflush(stdout);
            is_told = true;
        }
    }
}

static int next(const char *name, uint64_t free_bytes) {
    Segment segment(ipc::open_only, name);
    void *block = segment.allocate(64 << 10, std::nothrow);
    if (!block) return fputs("no block\n", stderr), 1;
    touch(block, 64 << 10);
    segment.deallocate(block);
    int64_t missing = int64_t(free_bytes) - int64_t(segment.get_free_memory());
    printf("leaked=%lld\n", static_cast<long long>(missing > 0 ? missing : 0));
    return 0;
}

static int frag(const char *name) {
    unsigned long long pool, wanted;
    size_t blocks, freed;
    if (scanf("%llu %llu %zu %zu", &pool, &wanted, &blocks, &freed) != 4) return 2;
    std::vector<size_t> sizes(blocks), gone(freed);
    for (auto &size : sizes)
        if (scanf("%zu", &size) != 1) return 2;
    for (auto &at : gone)
        if (scanf("%zu", &at) != 1) return 2;
    uint64_t address = status("VmSize");
    int files = descriptors();
    ipc::shared_memory_object::remove(name);
    Segment segment(ipc::create_only, name, pool);
    std::vector<void *> live(blocks);
    uint64_t held = 0;
    for (size_t i = 0; i < blocks; i++) {
        live[i] = segment.allocate(sizes[i], std::nothrow);
        if (live[i]) touch(live[i], sizes[i]), held += sizes[i];
    }
    for (size_t at : gone) {
        if (!live[at]) continue;
        segment.deallocate(live[at]);
        held -= sizes[at];
    }
    uint64_t free_bytes = pool - held;
    if (wanted > free_bytes) wanted = free_bytes;
    auto start = Clock::now();
    void *block = segment.allocate(wanted, std::nothrow);
    if (block) touch(block, wanted);
    long long ns = std::chrono::nanoseconds(Clock::now() - start).count();
    bool is_served = block;
    address = status("VmSize") - address;
    uint64_t memory = status("RssShmem"), in_use = held + (is_served ? wanted : 0);
    files = descriptors() - files;
    if (block) segment.deallocate(block);
    uint64_t low = 0, high = free_bytes / PAGE + 1;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        void *one = segment.allocate(middle * PAGE, std::nothrow);
        if (one) segment.deallocate(one);
        (one ? low : high) = middle;
    }
    ipc::shared_memory_object::remove(name);
    printf("served=%d largest=%llu free=%llu address=%llu memory=%llu in_use=%llu files=%d ns=%lld\n",
           is_served, (unsigned long long)(low * PAGE), (unsigned long long)free_bytes,
           (unsigned long long)address, (unsigned long long)memory, (unsigned long long)in_use, files, ns);
    return 0;
}

static bool whole(int fd, void *bytes, size_t len, bool is_read) {
    char *at = static_cast<char *>(bytes);
    while (len) {
        ssize_t n = is_read ? read(fd, at, len) : write(fd, at, len);
        if (n <= 0) return false;
        at += n, len -= n;
    }
    return true;
}

// The same messages as every contender's: 64 bytes there, 8 back.
static int share(const char *name, size_t bytes) {
    ipc::shared_memory_object::remove(name);
    Segment segment(ipc::create_only, name, bytes * 2 + (1 << 20));
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 1;
    char message[64] = {};
    if (fork() == 0) {
        close(pair[0]);
        Segment there(ipc::open_only, name);
        while (whole(pair[1], message, sizeof message, true)) {
            Segment::handle_t handle;
            memcpy(&handle, message, sizeof handle);
            auto *words = static_cast<uint64_t *>(there.get_address_from_handle(handle));
            uint64_t sum = 0;
            for (size_t i = 0; i < bytes / 8; i++) sum += words[i];
            if (!whole(pair[1], &sum, sizeof sum, false)) break;
        }
        _exit(0);
    }
    close(pair[1]);
    uint64_t turn = 0;
    for (long count; scanf("%ld", &count) == 1;) {
        auto start = Clock::now();
        for (long i = 0; i < count; i++) {
            turn++;
            void *block = segment.allocate(bytes);
            auto *words = static_cast<uint64_t *>(block);
            for (size_t w = 0; w < bytes / 8; w++) words[w] = turn;
            Segment::handle_t handle = segment.get_handle_from_address(block);
            memcpy(message, &handle, sizeof handle);
            uint64_t sum = 0;
            if (!whole(pair[0], message, sizeof message, false) || !whole(pair[0], &sum, sizeof sum, true)) return 1;
            if (sum != turn * (bytes / 8)) return fputs("wrong sum\n", stderr), 1;
            segment.deallocate(block);
        }
        long long ns = std::chrono::nanoseconds(Clock::now() - start).count();
        printf("%f\n", double(ns) / double(count));
        fflush(stdout);
    }
    ipc::shared_memory_object::remove(name);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    std::string role = argv[1];
    const char *name = argv[2];
    uint64_t number = argc > 3 ? strtoull(argv[3], nullptr, 10) : 0;
    try {
        if (role == "work") return work(name);
        if (role == "next") return next(name, number);
        if (role == "frag") return frag(name);
        if (role == "share") return share(name, number);
        if (role == "drop") return ipc::shared_memory_object::remove(name), 0;
        if (role == "make") {
            Segment segment(ipc::create_only, name, number);
            return printf("%llu\n", (unsigned long long)segment.get_free_memory()), 0;
        }
    } catch (const std::exception &e) {
        fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 2;
}
