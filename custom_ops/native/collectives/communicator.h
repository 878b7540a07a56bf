// What a collective is to the communicator that the process registered (c_api.h), and errors as exceptions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../c_api.h"

namespace onnx_cbp {

// A collective that did not come about; the text is one line, without the op and the node.
class CollectiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One collective of one node. Without a communicator the node's session is a single replica: a group has one member.
class Collective {
 public:
  static constexpr int64_t kNoNode = -1;
  // A number that no other node of the process has.
  static int64_t NewNode();

  // `node` is from NewNode(), or kNoNode for a plain C function's.
  Collective(const char* name, std::string layer, std::string group, int64_t node);

  // Whether the process has no communicator.
  static bool Alone();
  // How many replicas the group of this thread's replica has.
  int64_t Replicas() const;
  // `send`: header and `elements` doubles; `receive`: the same of every replica, by rank.
  void AllGather(int64_t elements, void* send, void* receive) const;
  // Sums, in place: header and `elements` floats or doubles. Returns the number of replicas.
  int64_t AllReduce(int type, int64_t elements, void* message) const;

 private:
  onnx_cbp_collective Describe(int type, int64_t elements) const;

  const int64_t node_;
  const std::string name_;
  const std::string layer_;
  const std::string group_;
};

}  // namespace onnx_cbp
