// The decoding loop's part of the C interface: the advance, which runs between the draw of a token
// and the next forward pass, and a loop that runs on the device alone.
#ifndef EFT_LOOP_H_
#define EFT_LOOP_H_

#include "eft.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EFT_INACTIVE = -2 };  // in the ring: the row was not active

// State of a batch of rows, all int64 and on one device; arrays without a remark are [num_rows].
typedef struct {
  int64_t num_rows;
  const int64_t* next_tokens;     // from the step, -1 where a row is invalid
  int64_t* tokens;                // what each row reads next
  int64_t* steps;                 // new tokens of each row
  const int64_t* max_new_tokens;  // the most of them
  int64_t* active;                // 1 where the row goes on, else 0
  int64_t* ring;                  // [ring_slots, ring_stride], the last tokens of all rows
  int64_t ring_slots;
  int64_t ring_stride;
  int64_t* tick;                 // [1], steps of the batch
  const int64_t* eos_token_ids;  // [num_eos]
  int64_t num_eos;
  int64_t* lengths[EFT_MAX_MODELS];  // tokens that each row holds in each model's cache
  int32_t num_lengths;               // models whose lengths grow; 0 where nothing was fed
} eft_advance;

// Writes the next tokens to the ring, advances the active rows, and ends those that drew an EOS
// token, have all their new tokens or are invalid.
EFT_API int eft_advance_cpu(const eft_advance* advance);
EFT_API int eft_advance_cuda(const eft_advance* advance, void* stream);

// The loop on the device: `body` (a cudaGraph_t that holds one step and ends with its advance)
// inside a WHILE node that goes on while a row is active, and at most `max_steps` times a launch.
// Needs CUDA 12.4 or newer in the build and in the driver.
typedef struct eft_while eft_while;
EFT_API int eft_while_supported(void);  // 1 where build, driver and device have WHILE nodes
EFT_API int eft_while_build(const eft_advance* advance, void* body, eft_while** loop);
EFT_API int eft_while_launch(eft_while* loop, int64_t max_steps, void* stream);
// 1 while a launch is still under way, 0 when it has ended, a negative EFT_* on failure. Waits for
// nothing.
EFT_API int eft_while_poll(eft_while* loop);
EFT_API void eft_while_close(eft_while* loop);

#ifdef __cplusplus
}
#endif
#endif  // EFT_LOOP_H_
