// Threads that go through the same steps together and share out the work of each.

#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace {

class Team {
  public:
    explicit Team(int steps) : taken_(new std::atomic<int>[steps]) {
        for (int i = 0; i < steps; i++) taken_[i] = 0;
    }

    // work() on so many threads, this one among them; on fewer where the system gives no more. std::bad_alloc where one
    // of them had no memory.
    template <typename Work>
    void run(int threads, const Work &work) {
        const auto member = [&] {
            try {
                for (int looks = 0; size_.load(std::memory_order_acquire) == 0; looks++) rest(looks);
                work();
            } catch (const std::bad_alloc &) {
                failed_.store(true, std::memory_order_relaxed);
            }
        };
        std::vector<std::thread> others;
        others.reserve(threads - 1);
        try {
            for (int i = 1; i < threads; i++) others.emplace_back(member);
        } catch (const std::system_error &) {
        }
        size_.store(static_cast<int>(others.size()) + 1, std::memory_order_release);
        member();
        for (std::thread &other : others) other.join();
        if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
    }

    // The pieces of a step, each done by who is free first; returns when all are done. Every thread calls it, once a step.
    template <typename Piece>
    void share(int step, int pieces, const Piece &piece) {
        for (int i; (i = taken_[step].fetch_add(1, std::memory_order_relaxed)) < pieces;) piece(i);
        wait();
    }

  private:
    std::unique_ptr<std::atomic<int>[]> taken_;  // pieces of a step
    std::atomic<int> size_{0}, arrived_{0}, round_{0};
    std::atomic<bool> failed_{false};

    static void rest(int looks) {
        if (looks < 2000)
            __builtin_ia32_pause();
        else
            std::this_thread::yield();
    }

    void wait() {
        const int round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_.load(std::memory_order_relaxed)) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int looks = 0; round_.load(std::memory_order_acquire) == round; looks++) {
            if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();  // of another thread, that has left
            rest(looks);
        }
    }
};

}  // namespace
