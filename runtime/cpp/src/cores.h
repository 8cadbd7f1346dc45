// How many threads a forward should take.
#pragma once

namespace wanrt::impl {

// Physical cores that this process may use: affinity and cgroup quota count.
int usable_cores();

}  // namespace wanrt::impl
