// Blocks that wait for one another, as those of a cooperative launch may. Each has an OS thread of its
// own, which sleeps when all threads of the block have come to the grid's barrier.
#include "core.h"

#include <exception>
#include <thread>
#include <vector>

extern "C" void simt_grid_barrier(int line, const char *file) {
    simt::current->want_grid(line, file);
    simt_block_barrier(&simt::GRID_BARRIER, false, line, file);
}

namespace simt {

Job::Meeting Job::meet() {
    std::unique_lock<std::mutex> lock(mutex);
    const uint64_t round = rounds;
    if (++waiting == blocks) {
        waiting = 0;
        rounds++;
        woken.notify_all();
        return Meeting::COMPLETE;
    }
    // One that has failed has ended, too, and says why by itself.
    if (waiting + ended == blocks && !failed.load()) {
        stuck = true;
        woken.notify_all();
    }
    woken.wait(lock, [&] { return rounds != round || stuck || failed.load(); });
    return rounds != round ? Meeting::COMPLETE : stuck ? Meeting::STUCK : Meeting::FAILED;
}

void Job::end_block() {
    std::lock_guard<std::mutex> lock(mutex);
    ended++;
    if (waiting > 0 && waiting + ended == blocks && !failed.load()) {
        stuck = true;
        woken.notify_all();
    }
}

void Core::meet_blocks() {
    const Job::Meeting meeting = job_->meet();
    if (meeting == Job::Meeting::COMPLETE)
        return;
    if (meeting == Job::Meeting::STUCK)
        fail(int(first_ - threads_),
             "%s at %s:%d: other blocks have returned, so it is never complete", first_->kind->name,
             first_->file, first_->line);
    gave_up_ = true;
    abandon();
}

void Core::want_grid(int line, const char *file) {
    if (job_->blocks == 1 || job_->together)
        return;
    const char *why = check_ || profile_
                          ? "checked and profiled launches have one block after the other"
                          : "only blocks of a cooperative launch can wait for one another";
    fail(running(), "%s at %s:%d: %s", GRID_BARRIER.name, file, line, why);
}

void run_together(Job &job) {
    const auto run = [&job] {
        try {
            run_alone(job, false);
        } catch (const std::exception &) {
            Message message;
            message.add("kernel %s (%s): no memory for all of its blocks at once",
                        job.kernel->name, job.kernel->file);
            job.fail(0, message);
        }
    };
    std::vector<std::thread> others;
    try {
        for (uint64_t i = 1; i < job.blocks; i++)
            others.emplace_back(run);
        run();
    } catch (const std::exception &) {
        Message message;
        message.add("kernel %s (%s): no OS threads for all of its blocks at once",
                    job.kernel->name, job.kernel->file);
        job.fail(0, message);
    }
    for (std::thread &other : others)
        other.join();
}

}  // namespace simt
