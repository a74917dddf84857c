// Hugging Face's tokenizer.json and tokenizer_config.json -> TokenizerParts.
#pragma once

#include <string_view>

#include "tokenizer/tokenizer.h"

namespace onggi {

// Throws InputError for broken bytes and for constructs that we do not run.
TokenizerParts parse_tokenizer_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                                    std::string_view chat_template);

}  // namespace onggi
