// SPDX-License-Identifier: MIT
//
// A shared library with nibble::dispatch inside: it keeps a choice of its own.

#include <nibble/dispatch/dispatch.hpp>

const char* plugin_tier() { return nibble::dispatch::active().data(); }
