// A collective, as the registered communicator (c_api.h) sees it; errors are exceptions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../c_api.h"

namespace onnx_cbp {

// A collective that failed. The text is one line, without the op and the node.
class CollectiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One collective of one node. Without a communicator, the session is a single replica: its groups have one member.
class Collective {
 public:
  static constexpr int64_t kNoNode = -1;
  // A number that no other node of this process has.
  static int64_t NewNode();

  // `node` is from NewNode(), or kNoNode if a plain C function calls.
  Collective(const char* name, std::string layer, std::string group, int64_t node);

  // Whether this process has no communicator.
  static bool Alone();
  // How many replicas the group of this thread's replica has.
  int64_t Replicas() const;
  // `send` has a header and `elements` doubles; `receive` gets the same from every replica, by rank.
  void AllGather(int64_t elements, void* send, void* receive) const;
  // Sums in place: the message has a header and `elements` floats or doubles. Returns the number of replicas.
  int64_t AllReduce(int type, int64_t elements, void* message) const;

 private:
  onnx_cbp_collective Describe(int type, int64_t elements) const;

  const int64_t node_;
  const std::string name_;
  const std::string layer_;
  const std::string group_;
};

}  // namespace onnx_cbp
