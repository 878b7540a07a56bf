// Functions of a glibc newer than 2.28 that the linked C++ runtime needs. With them, a library that is built on a new
// system runs on an old one (manylinux_2_28). They replace those of glibc only inside the library. cmake/OldGlibc.cmake
// handles functions that have only moved into libc.so.6 since then.
#include <features.h>

#if defined(__GLIBC__) && defined(__x86_64__)
#include <dlfcn.h>
#include <link.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#define ONNX_CBP_INSIDE __attribute__((visibility("hidden")))

extern "C" {

// Since 2.32. Whether the process has one thread. "No" is always right, and costs libstdc++ an atomic instruction.
ONNX_CBP_INSIDE char __libc_single_threaded = 0;

// Since 2.33; before, it was an inline function of the header. glibc and the kernel have the same struct.
ONNX_CBP_INSIDE int fstat64(int file, struct stat64* status) noexcept {
  return static_cast<int>(syscall(SYS_fstat, file, status));
}

// Since 2.36; for std::random_device, which nothing here uses.
ONNX_CBP_INSIDE uint32_t arc4random() noexcept {
  uint32_t bits = 0;
  if (getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) std::abort();
  return bits;
}

// Since 2.35, whose dlfcn.h has the struct. The unwinder of GCC 12 and newer asks this for the object at an address.
#if defined(DLFO_STRUCT_HAS_EH_DBASE)
struct Search {
  uintptr_t address;
  dl_find_object* result;
};

// Whether the object has the address; if so, its exception tables go into the result.
static int Look(dl_phdr_info* object, size_t, void* data) {
  auto* search = static_cast<Search*>(data);
  bool has = false;
  uintptr_t begin = UINTPTR_MAX, end = 0, tables = 0;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr) & part = object->dlpi_phdr[i];
    const uintptr_t at = object->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD) {
      has |= at <= search->address && search->address < at + part.p_memsz;
      begin = at < begin ? at : begin;
      end = at + part.p_memsz > end ? at + part.p_memsz : end;
    } else if (part.p_type == PT_GNU_EH_FRAME) {
      tables = at;
    }
  }
  if (!has) return 0;
  *search->result = {};
  search->result->dlfo_map_start = reinterpret_cast<void*>(begin);
  search->result->dlfo_map_end = reinterpret_cast<void*>(end);
  search->result->dlfo_eh_frame = reinterpret_cast<void*>(tables);
  return tables != 0 ? 1 : -1;
}

ONNX_CBP_INSIDE int _dl_find_object(void* address, dl_find_object* result) noexcept {
  Search search{reinterpret_cast<uintptr_t>(address), result};
  return dl_iterate_phdr(Look, &search) == 1 ? 0 : -1;
}
#endif

}  // extern "C"
#endif
