Feature: Sampling options
  The sampling options of 2024 and some later ones: defaults, effects, and rejected values.

  Scenario: the default settings are reported in generation_settings
    When I request a completion:
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the response's generation settings are:
      """
      {"temperature": 0.8, "dynatemp_range": 0, "dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05,
       "tfs_z": 1, "typical_p": 1, "min_keep": 0, "repeat_penalty": 1.1, "repeat_last_n": 64, "penalize_nl": true,
       "presence_penalty": 0, "frequency_penalty": 0, "use_penalty_prompt_tokens": false, "penalty_prompt_tokens": [],
       "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "xtc_probability": 0, "xtc_threshold": 0.1,
       "top_n_sigma": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1,
       "dry_sequence_breakers": ["\n", ":", "\"", "*"], "ignore_eos": false, "logit_bias": [],
       "samplers": ["top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature"]}
      """

  Scenario Outline: sampling is greedy with <options>
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 6, "temperature": 0, "repeat_penalty": 1}
      """
    Then the same request with <options> gives the same text

    Examples:
      | options                                                                   |
      | {"temperature": 5, "top_k": 1}                                            |
      | {"temperature": 5, "top_p": 0}                                            |
      | {"temperature": 5, "min_p": 1}                                            |
      | {"temperature": 5, "tfs_z": 0, "top_k": 0}                                |
      | {"temperature": 5, "top_n_sigma": 0.000001}                               |
      | {"temperature": 0.0001, "samplers": ["temperature"]}                      |
      | {"temperature": 0.0001, "dynatemp_range": 0.0001}                         |
      | {"temperature": 1, "mirostat": 2, "mirostat_tau": 0, "mirostat_eta": 0}   |
      | {"temperature": 5, "samplers": ["top_k"], "top_k": 1}                     |
      | {"temperature": -1}                                                       |

  Scenario Outline: the text changes with <options>
    When I request a completion:
      """
      {"prompt": "Once upon a time, there was a", "n_predict": 40, "seed": 4}
      """
    Then the same request with <options> gives another text
    And repeating the request gives the same text

    Examples:
      | options                                                   |
      | {"temperature": 1.5}                                      |
      | {"top_k": 2}                                              |
      | {"top_p": 0.3}                                            |
      | {"min_p": 0.6}                                            |
      | {"tfs_z": 0.2, "top_k": 0}                                |
      | {"typical_p": 0.2}                                        |
      | {"dynatemp_range": 0.7}                                   |
      | {"dynatemp_range": 0.7, "dynatemp_exponent": 4}           |
      | {"repeat_penalty": 1.6}                                   |
      | {"presence_penalty": 1.5}                                 |
      | {"frequency_penalty": 1.5}                                |
      | {"penalty_prompt": " the a of and to"}                    |
      | {"mirostat": 1, "mirostat_tau": 2}                        |
      | {"mirostat": 2, "mirostat_tau": 2}                        |
      | {"xtc_probability": 1, "xtc_threshold": 0.05}             |
      | {"top_n_sigma": 0.5, "top_k": 0}                          |
      | {"samplers": ["temperature"], "temperature": 2}           |
      | {"samplers": ["temperature", "min_p"], "temperature": 3}  |
      | {"seed": 5}                                               |

  Scenario: logit_bias of a token id forces an improbable token
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2, "temperature": 0, "repeat_penalty": 1, "logit_bias": [[4649, 100]]}
      """
    Then the response's "content" is " France France"
    And the response's "generation_settings.logit_bias" is [[4649.0, 100.0]]
    And the same request with {"logit_bias": [[4649, 100], [4649, false]]} gives another text

  Scenario: logit_bias of a text applies to all tokens of the text
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 3, "temperature": 0, "logit_bias": [[" Berlin", 100], ["Paris", -1]]}
      """
    Then the response's "content" is " Berlin Berlin Berlin"
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0, "logit_bias": [[" Paris", false]]}
      """
    Then the response's "content" does not contain "Paris"
    And the response's "generation_settings.logit_bias.0.1" is false

  Scenario: penalize_nl and penalty_prompt are reported in generation_settings
    When I request a completion:
      """
      {"prompt": "a\n\n\n", "n_predict": 2, "temperature": 0, "repeat_penalty": 10000, "penalize_nl": false, "penalty_prompt": "\n"}
      """
    Then the response's "generation_settings.penalize_nl" is false
    And the response's "generation_settings.use_penalty_prompt_tokens" is true
    And the response's "generation_settings.penalty_prompt_tokens.0" is 198

  Scenario: min_keep sets the minimum number of candidate tokens
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 4, "top_p": 0, "min_p": 1, "typical_p": 0, "min_keep": 3, "n_probs": 5, "post_sampling_probs": true}
      """
    Then every token has 3 probabilities in descending order
    And the response's "generation_settings.min_keep" is 3

  Scenario: an empty penalty_prompt excludes the prompt from penalties
    When I request a completion:
      """
      {"prompt": "Hello", "n_predict": 1, "penalty_prompt": []}
      """
    Then the status is 200
    And the response's "generation_settings.use_penalty_prompt_tokens" is true
    And the response's "generation_settings.penalty_prompt_tokens" is []

  Scenario: repeat_last_n limits the window of repeat_penalty
    When I request a completion:
      """
      {"prompt": "one two three four five. one two three four five. one two three", "n_predict": 2, "temperature": 0, "repeat_penalty": 1}
      """
    Then the response's "content" is " four five"
    And the same request with {"repeat_penalty": 10000, "repeat_last_n": 0} gives the same text
    And the same request with {"repeat_penalty": 10000, "repeat_last_n": 3} gives the same text
    And the same request with {"repeat_penalty": 10000, "repeat_last_n": -1} gives another text

  Scenario: a sampler that samplers lists twice is applied twice
    When I request a completion:
      """
      {"prompt": "Once upon a time, there was a", "n_predict": 20, "seed": 4, "temperature": 4, "samplers": ["top_k", "temperature"]}
      """
    Then the same request with {"temperature": 2, "samplers": ["top_k", "temperature", "temperature"]} gives the same text
    And the same request with {"samplers": ["top_k"]} gives another text

  Scenario: the DRY sampler penalizes repeated sequences
    When I request a completion:
      """
      {"prompt": "one two three four five. one two three four five. one two three", "n_predict": 2, "temperature": 0, "repeat_penalty": 1}
      """
    Then the response's "content" is " four five"
    And the same request with {"dry_multiplier": 100, "dry_penalty_last_n": 0} gives the same text
    And the same request with {"dry_multiplier": 100, "dry_sequence_breakers": ["three"]} gives the same text
    And the same request with {"dry_multiplier": 100, "dry_allowed_length": 30} gives the same text
    And the same request with {"dry_multiplier": 100} gives another text

  Scenario Outline: the error names the invalid field: <body>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", <body>}
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | body                              | param                   | message                |
      | "samplers": ["top_k", "greedy"]   | samplers.1              | greedy                 |
      | "samplers": "top_k"               | samplers                | unknown sampler letter |
      | "tfs_z": -1                       | tfs_z                   | minimum of 0           |
      | "typical_p": "a"                  | typical_p               | not of type            |
      | "dynatemp_range": -0.5            | dynatemp_range          | minimum of 0           |
      | "dynatemp_exponent": -1           | dynatemp_exponent       | minimum of 0           |
      | "min_keep": -1                    | min_keep                | minimum of 0           |
      | "top_k": 1.5                      | top_k                   | not of type            |
      | "min_p": 2                        | min_p                   | maximum of 1           |
      | "repeat_penalty": 0               | repeat_penalty          | minimum                |
      | "repeat_last_n": -2               | repeat_last_n           | minimum of -1          |
      | "presence_penalty": "x"           | presence_penalty        | not of type            |
      | "penalize_nl": 1                  | penalize_nl             | not of type            |
      | "penalty_prompt": 7               | penalty_prompt          |                        |
      | "penalty_prompt": [70000]         |                         | token 70000            |
      | "mirostat": 3                     | mirostat                |                        |
      | "mirostat_tau": -1                | mirostat_tau            | minimum of 0           |
      | "mirostat_eta": null, "seed": "a" | seed                    | not of type            |
      | "xtc_probability": 1.5            | xtc_probability         | maximum of 1           |
      | "xtc_threshold": -1               | xtc_threshold           | minimum of 0           |
      | "top_n_sigma": -2                 | top_n_sigma             | minimum of -1          |
      | "dry_multiplier": -1              | dry_multiplier          | minimum of 0           |
      | "dry_base": 0                     | dry_base                | minimum of 1           |
      | "dry_allowed_length": -1          | dry_allowed_length      | minimum of 0           |
      | "dry_sequence_breakers": [""]     | dry_sequence_breakers.0 | shorter than 1         |
      | "logit_bias": [[1]]               | logit_bias.0            | less than 2            |
      | "logit_bias": [[1, true]]         | logit_bias.0.1          |                        |
      | "logit_bias": [[1, "a"]]          | logit_bias.0            | a number or false      |
      | "logit_bias": [[70000, 1]]        |                         | token 70000            |
      | "temperature": "hot"              | temperature             | not of type            |
      | "frequency_penalty": "x"          | frequency_penalty       | not of type            |
      | "presence_penalty": 10001         | presence_penalty        | maximum of 10000       |
      | "mirostat_eta": -1                | mirostat_eta            | minimum of 0           |
      | "penalty_prompt": [1, -1]         | penalty_prompt.1        | minimum of 0           |
