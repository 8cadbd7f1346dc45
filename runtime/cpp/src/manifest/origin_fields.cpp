#include "manifest/origin_fields.h"

#include "manifest/fields.h"

namespace wanrt::impl {

namespace {

void check_number(Object& object, const char* key) {
  if (const Json* value = object.find(key)) {
    read_number(*value, object.place(key));
  }
}

void check_granularity(Object& object, const char* key) {
  object.choice(key, {"tensor", "channel", "token", "block"});
}

void check_fidelity(const Json& value, const std::string& place) {
  Object object(value, place);
  if (read_list(object, "keeps", read_number).empty()) {
    refuse_at(object.place("keeps"), "Tuple should have at least 1 item");
  }
  read_list(object, "timesteps", read_number);
  read_list(object, "finetuned", read_hash);
  object.done();
}

}  // namespace

bool check_source(const Json& value, const std::string& place) {
  Object object(value, place);
  object.text("path");
  read_sha256(object);
  check_number(object, "strength");
  read_optional_text(object, "scheme");
  read_optional_choice(object, "scale_from", {"alpha", "metadata", "sidecar", "none"});
  object.done();
  return true;
}

bool check_prefused(const Json& value, const std::string& place) {
  Object object(value, place);
  object.text("name");
  read_sha256(object);
  read_number(object.need("strength"), object.place("strength"));
  object.done();
  return true;
}

std::string read_quantization(const Json& value, const std::string& place) {
  Object object(value, place);
  std::string scheme = object.choice("scheme", {"fp8", "int8", "nvfp4"});
  check_granularity(object, "weights");
  object.need("activations");
  if (object.find("activations") != nullptr) {
    check_granularity(object, "activations");
  }
  if (object.has("excluded")) {
    read_list(object, "excluded", read_text);
  }
  object.choice("origin", {"pristine", "checkpoint"});
  object.done();
  return scheme;
}

void check_verification(const Json& value, const std::string& place) {
  Object object(value, place);
  object.choice("method", {"blocks", "none"});
  if (object.find("dtype") != nullptr) {
    read_dtype(object);
  }
  if (const Json* tokens = object.find("tokens")) {
    read_count(*tokens, object.place("tokens"));
  }
  for (const char* key : {"error", "tolerance", "reference_error", "adapter_effect", "plan_error",
                          "emulated_error"}) {
    check_number(object, key);
  }
  read_optional_choice(object, "adapter_oracle", {"peft", "diffusers"});
  if (const Json* fidelity = object.find("fidelity")) {
    check_fidelity(*fidelity, object.place("fidelity"));
  }
  object.done();
}

}  // namespace wanrt::impl
