// The numbers that make a Llama-family model. Names of files' own metadata never reach the core:
// f1/models/checkpoint.py translates them.
#pragma once

#include <cstdint>
#include <vector>

namespace f1 {

struct ModelConfig {
  int num_layers = 0;
  int hidden_size = 0;        // D
  int intermediate_size = 0;  // width of the MLP
  int num_heads = 0;          // H query heads
  int num_kv_heads = 0;       // G key/value heads; H is a multiple of G
  int head_dim = 0;           // E
  int vocab_size = 0;         // V
  int max_positions = 0;      // trained context length
  float norm_eps = 0;
  // Rotary embedding: angle of pair i at position p is p * rope_inv_freq[i]; theta and any scaling
  // (Llama-3's) are already in. Pairs are (x[2i], x[2i+1]) when interleaved, else (x[i], x[i+E/2]).
  std::vector<float> rope_inv_freq;  // [E / 2]
  bool rope_interleaved = false;
};

}  // namespace f1
