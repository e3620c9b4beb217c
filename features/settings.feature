Feature: Server information

  Scenario: /props returns the model and the default settings
    When I request the props
    Then the status is 200
    And the response's "total_slots" is 4
    And the response's "assistant_name" is ""
    And the response's "default_generation_settings.temperature" is 0.8
    And the response's "default_generation_settings.n_ctx" is 512
    And the response's "cache_tokens" is 2048
    And the response's "deterministic" is true
    And the response's "attention" is "paged"
    And the response's "chat_template" contains "<|im_start|>"
    And the response's "user_name" is ""
    And the response's "default_generation_settings.n_predict" is -1
    And the response's "default_generation_settings.n_keep" is 0
    And the response's "default_generation_settings.n_probs" is 0
    And the response's "default_generation_settings.seed" is -1
    And the response's "default_generation_settings.stop" is []
    And the response's "default_generation_settings.stream" is false
    And the response's "default_generation_settings.grammar" is ""
    And the response's "default_generation_settings.model" is "smollm2"
    And the response's "default_generation_settings.params.temperature" is 0.8
    And the response's "default_generation_settings.params.n_predict" is -1
    And the response's "modalities" is {"vision": false, "audio": false}
    And the response's "eos_token" is "<|im_end|>"

  Scenario: /v1/models lists the model, and an unknown model gets 404
    When I request the models
    Then the status is 200
    And the response's "data.0.id" is "smollm2"
    When I request the model "smollm2"
    Then the status is 200
    And the response's "id" is "smollm2"
    When I request the model "another"
    Then the status is 404
    And the error message contains "another"

  Scenario: /models lists the model in llama.cpp's current format
    When I get "/models"
    Then the status is 200
    And the response's "data.0.id" is "smollm2"
    And the response's "models.0.name" is "smollm2"
    And the response's "models.0.capabilities" is ["completion"]
    And the response's "models.0.details.family" is "llama"
    When I get "/models/smollm2"
    Then the response's "id" is "smollm2"

  Scenario: /v1/health is an alias of /health
    When I get "/v1/health"
    Then the status is 200
    And the response's "status" is "ok"

  Scenario: the OpenAPI document and its documentation page are served
    When I get "/openapi.json"
    Then the status is 200
    And the response's "openapi" is "3.1.0"
    When I get "/openapi.yaml"
    Then the status is 200
    When I get "/docs"
    Then the status is 200
