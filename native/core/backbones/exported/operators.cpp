#include "backbones/exported/operators.h"

#include "backbones/words.h"

namespace le::exported {

bool is_refused(const std::string& name) {
  static const auto names = words(
      "from_file save set_ set_data resize_ resize_as_ resize resize_as set resize_as_sparse_ record_stream "
      "pin_memory to_mkldnn unsafe_chunk embedding_bag");
  static const auto prefixes =
      words("sparse_ cudnn_ mkldnn_ miopen_ fbgemm_ quantize quantized fake_quantize to_sparse mps_ sym_constrain");
  // Of the internal ones, those that PyTorch's own exports contain.
  static const auto internal = words(
      "_native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional "
      "_log_softmax _softmax _safe_softmax _to_copy _unsafe_view _unsafe_index _unsafe_index_put "
      "_reshape_alias _adaptive_avg_pool2d _adaptive_avg_pool3d _scaled_dot_product_flash_attention "
      "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
      "_scaled_dot_product_attention_math _weight_norm _weight_norm_interface _upsample_bilinear2d_aa "
      "_upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d "
      "_assert_async _convolution _local_scalar_dense _cdist_forward _euclidean_dist _trilinear "
      "_transformer_encoder_layer_fwd _native_multi_head_attention _conj _fft_r2c _fft_c2r _fft_c2c _unique2 "
      "_prelu_kernel _is_all_true _is_any_true");
  if (names.contains(name)) return true;
  for (const std::string& prefix : prefixes)
    if (name.starts_with(prefix)) return true;
  return name.starts_with('_') && !internal.contains(name);
}

bool is_ignored(const std::string& target) {
  return target == "torch.ops.aten._assert_tensor_metadata.default" ||
         target.starts_with("torch.ops.aten.sym_constrain_range");
}

bool returns_fresh(const std::string& name) {
  static const auto names = words(
      "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm instance_norm "
      "group_norm layer_norm rms_norm linear max_pool1d max_pool2d max_pool3d avg_pool1d adaptive_avg_pool2d "
      "adaptive_avg_pool3d matmul softmax log_softmax upsample_nearest2d upsample_bilinear2d "
      "upsample_trilinear3d upsample_nearest3d upsample_bicubic2d scaled_dot_product_attention silu selu relu6 "
      "cross_entropy_loss square pixel_shuffle embedding one_hot std var");
  return names.contains(name);
}

}  // namespace le::exported
