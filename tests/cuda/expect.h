// What the programs here say of what is wrong.
#pragma once

#include <cstdio>
#include <cstdlib>

#define EXPECT(condition)                                             \
    do {                                                              \
        if (!(condition))                                             \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
    } while (0)

#define CHECK(call)                                                                         \
    do {                                                                                    \
        const auto error_ = (call);                                                         \
        if (error_ != 0) {                                                                  \
            printf("%s:%d: %s: error %d\n", __FILE__, __LINE__, #call, int(error_));        \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)
