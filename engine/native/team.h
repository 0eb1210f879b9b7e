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
    explicit Team(int steps) : taken_(new std::atomic<int>[steps]), done_(new std::atomic<int>[steps]) {
        for (int i = 0; i < steps; i++) taken_[i] = done_[i] = 0;
    }

    // work() on so many threads, this one among them; on fewer where the system gives no more. std::bad_alloc where one
    // of them had no memory.
    template <typename Work>
    void run(int threads, const Work &work) {
        const auto member = [&] {
            try {
                work();
            } catch (const std::bad_alloc &) {
                failed_.store(true, std::memory_order_relaxed);
            }
        };
        std::vector<std::thread> others;
        others.reserve(threads - 1);
        try {
            for (int i = 1; i < threads; i++) others.emplace_back(member);
        } catch (const std::system_error &) {  // those that there are do it all
        } catch (const std::bad_alloc &) {
        }
        member();
        for (std::thread &other : others) other.join();
        if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
    }

    // The pieces of a step, each done by who is free first; returns when all are done. Every thread calls it, once a step.
    // Nobody waits for a thread that has no piece: one that comes late finds the steps done.
    template <typename Piece>
    void share(int step, int pieces, const Piece &piece) {
        int own = 0;
        for (int i; (i = taken_[step].fetch_add(1, std::memory_order_relaxed)) < pieces; own++) piece(i);
        if (own) done_[step].fetch_add(own, std::memory_order_release);
        for (int looks = 0; done_[step].load(std::memory_order_acquire) < pieces; looks++) {
            if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();  // of another thread, that has left
            rest(looks);
        }
    }

  private:
    std::unique_ptr<std::atomic<int>[]> taken_, done_;  // pieces of a step
    std::atomic<bool> failed_{false};

    static void rest(int looks) {
        if (looks < 2000)
            __builtin_ia32_pause();
        else
            std::this_thread::yield();
    }
};

}  // namespace
