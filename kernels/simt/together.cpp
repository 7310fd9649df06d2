// Blocks that wait for one another, as those of a cooperative launch may. Each has an OS thread of its
// own, which sleeps when all threads of the block have come to the grid's barrier. Those that are
// checked or profiled have one OS thread, and turns: each runs up to the barrier, one after the other,
// and when all are there the first goes on. So what is seen is the same every time.
#include "check.h"
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
    const Job::Meeting meeting = check_ || profile_ ? give_way() : job_->meet();
    if (meeting == Job::Meeting::COMPLETE)
        return;
    if (meeting == Job::Meeting::STUCK)
        fail(int(first_ - threads_),
             "%s at %s:%d: other blocks have returned, so it is never complete", first_->kind->name,
             first_->file, first_->line);
    abandon();
}

void Core::want_grid(int line, const char *file) {
    if (job_->blocks == 1 || job_->together)
        return;
    fail(running(), "%s at %s:%d: only blocks of a cooperative launch can wait for one another",
         GRID_BARRIER.name, file, line);
}

namespace {

void refuse(Job &job, const char *what) {
    Message message;
    message.add("kernel %s (%s): no %s for all of its blocks at once", job.kernel->name,
                job.kernel->file, what);
    job.fail(0, message);
}

}  // namespace

void run_together(Job &job) {
    const auto run = [&job] {
        try {
            run_alone(job, false);
        } catch (const std::exception &) {
            refuse(job, "memory");
        }
    };
    std::vector<std::thread> others;
    try {
        for (uint64_t i = 1; i < job.blocks; i++)
            others.emplace_back(run);
        run();
    } catch (const std::exception &) {
        refuse(job, "OS threads");
    }
    for (std::thread &other : others)
        other.join();
}

void run_in_turns(Job &job) {
    std::vector<std::unique_ptr<Worker>> waiting;
    // Whether none was left because of a finding, of which everything has been said.
    bool complete = true;
    std::unique_ptr<Worker> worker;
    try {
        for (uint64_t turn = 0; turn < job.blocks && !job.failed; turn++) {
            if (!worker)
                worker = take_worker(false);
            SignalStack stack(worker->signal_stack);
            if (worker->core.start(job, turn))
                waiting.push_back(std::move(worker));
            else
                complete &= worker->core.complete();
        }
    } catch (const std::exception &) {
        refuse(job, "memory");
    }
    if (worker)
        give_worker(std::move(worker), false);
    while (!waiting.empty()) {
        const auto meeting = [&, all = waiting.size() == job.blocks, quiet = !complete] {
            return job.failed || quiet ? Job::Meeting::FAILED
                   : all               ? Job::Meeting::COMPLETE
                                       : Job::Meeting::STUCK;
        };
        if (job.check && meeting() == Job::Meeting::COMPLETE)
            job.check->met();
        std::vector<std::unique_ptr<Worker>> again;
        for (std::unique_ptr<Worker> &one : waiting) {
            SignalStack stack(one->signal_stack);
            if (one->core.go_on(meeting())) {
                again.push_back(std::move(one));
                continue;
            }
            complete &= one->core.complete();
            give_worker(std::move(one), false);
        }
        waiting = std::move(again);
    }
    current = nullptr;
}

}  // namespace simt
