// Work on several threads, which are started for a call and end with it: a pool that outlives
// calls would have to survive forks, and saves little of the 10 to 20 us.
#pragma once
#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

// Calls piece(number, thread) for each of `pieces`: the thread that is free takes the next.
// `prepare` comes before all, while the other threads start. Where no more threads are to be had,
// those there are do the work.
template <class Prepare, class Do>
void in_parallel(int threads, int pieces, Prepare&& prepare, Do&& piece) {
    std::atomic<int> next{0};
    std::mutex preparing;
    auto run = [&](int thread) {
        for (int i; (i = next++) < pieces;) piece(i, thread);
    };
    std::vector<std::thread> others;
    {
        std::lock_guard until_prepared(preparing);
        try {
            for (int t = 1; t < std::min(threads, pieces); t++)
                others.emplace_back([&, t] { std::lock_guard wait(preparing); run(t); });
        } catch (const std::system_error&) {
        }
        prepare();
    }
    run(0);
    for (auto& other : others) other.join();
}
