#include "platform/threads.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "platform/answer.h"

using namespace le;

namespace {

std::shared_ptr<Control> control() { return std::make_shared<Control>(); }

// Waits, as a job that looks at its flag does.
void until_stopped(const Control& control) {
  while (!control.stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

TEST("threads: jobs run in order, one at a time, and the thread ends once it is closed") {
  const int owner = 0;
  std::vector<int> order;  // no lock: a thread's jobs are one after the other
  {
    JobThread thread(&owner);
    for (int i = 0; i < 100; ++i) thread.push({control(), [&order, i] { order.push_back(i); }});
    std::atomic<bool> last{false};
    thread.push({control(), [&last] { last = true; }});
    while (!last) std::this_thread::yield();
    CHECK(thread.life() >= 100);
    thread.close();
  }
  CHECK(end_threads(&owner));
  CHECK(order.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(order[static_cast<size_t>(i)] == i);
}

TEST("threads: an end is told after the last destructor of the thread's own variables") {
  static std::atomic<int> destroyed{0};
  struct Slow {
    ~Slow() {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      ++destroyed;
    }
  };
  const int owner = 0;
  JobThread thread(&owner);
  thread.push({control(), [] {
                 thread_local const Slow slow;
                 (void)slow;
               }});
  CHECK(end_threads(&owner));
  CHECK(destroyed == 1);
}

TEST("threads: an end stops what runs and what waits, of its owner alone") {
  const int owner = 0, other = 0;
  const auto first = control(), second = control(), foreign = control();
  std::atomic<int> ran{0};
  JobThread thread(&owner), apart(&other);
  thread.push({first, [&, first] { until_stopped(*first), ++ran; }});
  thread.push({second, [&, second] { until_stopped(*second), ++ran; }});
  apart.push({foreign, [&, foreign] { until_stopped(*foreign), ++ran; }});
  CHECK(end_threads(&owner));
  CHECK(ran == 2);
  CHECK(!foreign->stop);
  CHECK(end_threads(&other));
  CHECK(ran == 3);
}

TEST("threads: a job that never looks at its flag is left alone in time") {
  const int owner = 0;
  std::atomic<bool> let_go{false};
  JobThread thread(&owner);
  thread.push({control(), [&let_go] {
                 while (!let_go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
               }});
  CHECK(!end_threads(&owner));
  let_go = true;
  CHECK(end_threads(&owner));
}

TEST("threads: made, used, stopped, dropped and ended on several threads at a time") {
  const int owners[2] = {};
  std::atomic<int> ran{0};
  std::vector<std::thread> users;
  for (const int& owner : owners)
    users.emplace_back([&owner, &ran] {
      for (int i = 0; i < 100; ++i) {
        auto thread = std::make_unique<JobThread>(&owner);
        const auto one = control();
        thread->push({one, [&ran, one] {
                        one->life.fetch_add(1);
                        ++ran;
                      }});
        thread->push({control(), [&ran] { ++ran; }});
        (void)thread->life();
        if (i % 3 == 0) thread->stop();
        if (i % 5 == 0) thread->close();
        thread.reset();
        if (i % 10 == 0) (void)end_threads(&owner);
      }
    });
  for (auto& user : users) user.join();
  for (const int& owner : owners) CHECK(end_threads(&owner));
  CHECK(ran == 400);
}

TEST("answer: given, failed, or given up, whichever side is gone first") {
  for (int i = 0; i < 200; ++i) {
    auto answer = std::make_shared<Answer<std::vector<int>>>();
    std::thread other([answer, i] {
      if (i % 2) return answer->give({i, i + 1});
      answer->fail(std::make_exception_ptr(Error(code::kOption, "no", "")));
    });
    try {
      const std::vector<int> value = answer->wait(*control());
      CHECK(i % 2 == 1 && value == std::vector<int>({i, i + 1}));
    } catch (const Error& error) {
      CHECK(i % 2 == 0 && error.code() == code::kOption);
    }
    answer.reset();
    other.join();
  }
}

TEST("answer: one that never comes is not waited for after a stop; one that comes later has nobody to hurt") {
  const auto job = control();
  auto answer = std::make_shared<Answer<int>>();
  std::thread late([answer, job] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    job->stop = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    answer->give(1);
  });
  std::string thrown;
  try {
    (void)answer->wait(*job);
  } catch (const Error& error) {
    thrown = error.code();
  }
  answer.reset();
  CHECK(thrown == code::kAborted);
  late.join();
}
