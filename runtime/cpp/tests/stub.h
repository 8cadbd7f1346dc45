// A backend for tests: y = x + the sum of all adapter inputs. It fails where an engine's name says.
#pragma once

namespace stub {

// Names of engines whose backend fails.
inline constexpr const char* kFailsToOpen = "fails to open";
inline constexpr const char* kFailsToBind = "fails to bind";
inline constexpr const char* kFailsToRun = "fails to run";
inline constexpr const char* kThrows = "throws something";

// Forwards of an engine of this name don't end before they are let go.
inline constexpr const char* kWaits = "waits";
void wait_for_forward();  // until one has begun
void let_go();

}  // namespace stub
