Feature: Token probabilities

  Scenario: /completion returns the n_probs most probable tokens in llama.cpp's format of 2024
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 4, "temperature": 0, "repeat_penalty": 1, "n_probs": 3}
      """
    Then the response's "completion_probabilities" has 4 entries
    And every token has 3 probabilities in descending order
    And the response's "completion_probabilities.0.probs.0.tok_str" is " Paris"
    And the response's "completion_probabilities.0.content" is " Paris"
    And the response's "generation_settings.n_probs" is 3

  Scenario: /completion returns probabilities from before logit_bias and samplers
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 1, "temperature": 5, "top_k": 1, "logit_bias": [[" Paris", false]], "n_probs": 2}
      """
    Then the response's "completion_probabilities.0.probs.0.tok_str" is " Paris"
    And every token has 2 probabilities in descending order

  Scenario: post_sampling_probs returns the probabilities after all samplers
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2, "top_k": 1, "n_probs": 5, "post_sampling_probs": true}
      """
    Then every token has 1 probabilities in descending order
    And the response's "completion_probabilities.1.probs.0.prob" is 1

  Scenario: /completion returns no probabilities by default
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2}
      """
    Then the response has no "completion_probabilities"

  Scenario: a /completion stream returns the probabilities in its last event
    When I stream a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 3, "temperature": 0, "n_probs": 2}
      """
    Then every event but the last has only content and stop
    And the last event has 3 "completion_probabilities"

  Scenario: a chat completion returns logprobs in OpenAI's format
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 2}
      """
    Then the tokens of the logprobs join to the text
    And each token has 2 top_logprobs in descending order

  Scenario: a chat completion stream returns logprobs
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 12, "temperature": 0, "logprobs": true}
      """
    Then the tokens of the logprobs join to the text
    And each token has 0 top_logprobs in descending order

  Scenario: logprobs of a chat completion is null by default
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
      """
    Then the response's "choices.0.logprobs" is null

  Scenario Outline: the error names the invalid field: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      {<body>, "messages": [{"role": "user", "content": "a"}], "prompt": "a"}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | path                 | body                                  | param               |
      | /completion          | "n_probs": -1                         | n_probs             |
      | /completion          | "n_probs": 1001                       | n_probs             |
      | /completion          | "n_probs": "all"                      | n_probs             |
      | /completion          | "post_sampling_probs": 1              | post_sampling_probs |
      | /v1/chat/completions | "logprobs": 3                         | logprobs            |
      | /v1/chat/completions | "logprobs": true, "top_logprobs": 21  | top_logprobs        |
      | /v1/chat/completions | "top_logprobs": 2                     | top_logprobs        |
